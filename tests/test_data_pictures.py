"""Folders of pictures: sizes, labels, splits, and the file they are decoded into."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import place, same

from datamodules import CelebA, ImageFolder, image_cache
from lightning_avb.errors import ConfigurationError


def picture(path, seed=0, size=(48, 40), channels=3, **options):
    """Writes a picture of random pixels, and returns them, `(channels, height, width)`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).save(path, **options)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def folder(root, count=20, **options):
    """A folder of PNG files, and their pixels in the order of the names."""
    return torch.stack([picture(root / f"{number:02}.png", number, **options) for number in range(count)])


@pytest.fixture
def reads(monkeypatch):
    """The names of the pictures that were decoded, four at a time."""
    names, original = [], image_cache.read_image

    def read(path, image_format):
        names.append(os.path.basename(path))
        return original(path, image_format)

    monkeypatch.setattr(image_cache, "read_image", read)
    monkeypatch.setattr(image_cache, "BLOCK", 4)
    return names


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_shape_are_what_was_stored(tmp_path, channels):
    pixels = folder(tmp_path, channels=channels)
    data = ImageFolder(str(tmp_path), batch_size=16)
    data.prepare_data()
    data.setup("fit")
    assert data.data_shape == (channels, 48, 40)
    assert data.classes is None
    assert [data.rows(stage) for stage in ("train", "val", "test")] == [16, 2, 2]
    rows = {stage: split.rows for stage, split in data.load().items()}
    assert torch.equal(torch.cat(list(rows.values())).sort()[0], torch.arange(20))
    for batch, stage in ((next(iter(data.train_dataloader())), "train"), (next(iter(data.test_dataloader())), "test")):
        assert torch.equal(batch.x, pixels[rows[stage][batch.index]] / 255)
        assert batch.y is None


def test_grey_only_if_all_are_grey_or_the_user_says_so(tmp_path):
    folder(tmp_path, 9, channels=1)
    colour = picture(tmp_path / "z.png")
    assert ImageFolder(str(tmp_path)).split("train").x.shape[1] == 3
    assert ImageFolder(str(tmp_path), channels=1).split("train").x.shape[1] == 1
    x = ImageFolder(str(tmp_path)).load()["train"].x
    assert torch.equal(x[-1], colour)
    assert torch.equal(x[0, 0], x[0, 2])


def test_pictures_in_a_single_folder_have_no_label(tmp_path):
    folder(tmp_path / "photographs", 10)
    data = ImageFolder(str(tmp_path))
    assert data.split("train").y is data.classes is data.label_names is None


def test_a_folder_a_label(tmp_path):
    for label, count in (("b", 10), ("a", 20), ("c/deep", 10)):
        folder(tmp_path / label, count)
    data = ImageFolder(str(tmp_path))
    x, y, _ = data.load()["train"]
    assert (data.classes, data.label_names) == (3, ["a", "b", "c"])
    assert y.bincount().tolist() == [20, 10, 10]
    assert torch.equal(x[0], x[20])  # the first of a and the first of b
    assert torch.equal(y[:20], torch.zeros(20, dtype=torch.int64))
    assert data.state_dict() == {"label_names": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), {"train": 20, "val": 20, "test": 20}),
        (("train", "validation"), {"train": 18, "val": 20, "test": 2}),
        (("train", "test"), {"train": 18, "val": 2, "test": 20}),
        (("train",), {"train": 16, "val": 2, "test": 2}),
    ],
)
@pytest.mark.parametrize("labels", ["", "cat dog"])
def test_folders_that_are_splits(tmp_path, folders, expected, labels):
    for number, part in enumerate(folders):
        for label in labels.split() or [""]:
            for each in range(20 // (len(labels.split()) or 1)):
                picture(tmp_path / part / label / f"{each}.png", size=(2, 2 + number))
    data = ImageFolder(str(tmp_path), size=(2, 2))
    assert {stage: data.rows(stage) for stage in expected} == expected
    assert data.label_names == (labels.split() or None)
    splits = data.load()
    whole = {stage: len(folders) for stage, count in expected.items() if count == 20}
    assert all(len(splits[stage].rows.unique()) == 20 for stage in whole)


def test_folders_that_only_look_like_splits_are_labels(tmp_path):
    for label in ("bus", "train", "car"):
        folder(tmp_path / label, 10)
    data = ImageFolder(str(tmp_path))
    data.setup("test")
    assert data.label_names == ["bus", "car", "train"]


def test_different_sizes_need_a_size(tmp_path):
    picture(tmp_path / "a.png", size=(48, 40))
    picture(tmp_path / "b.png", size=(48, 40))
    picture(tmp_path / "c.png", size=(50, 41))
    with pytest.raises(
        ConfigurationError,
        match=r"data\.size: .* '.*/a\.png' is 48x40, '.*/c\.png' is 50x41 .*; set data\.size to .* \[48, 40\]",
    ):
        ImageFolder(str(tmp_path)).prepare_data()
    assert [path.suffix for path in (tmp_path / ".lightning_avb").iterdir()] == [".lock"]
    for size, shape in ((32, (3, 32, 32)), ([24, 20], (3, 24, 20))):
        data = ImageFolder(str(tmp_path), size=size)
        data.setup("validate")
        assert data.data_shape == shape


def test_scaling_covers_the_size_and_keeps_proportions(tmp_path):
    """A white picture with black margins of a quarter on the left and right loses exactly these."""
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 20:60] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.T).save(tmp_path / "tall.png")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = ImageFolder(str(tmp_path), size=20).load()["train"].x
    assert x.shape == (3, 1, 20, 20)
    assert (x[..., 2:-2, 2:-2] == 255).all()
    assert (x > 100).all()


def test_kinds_of_pictures(tmp_path):
    """16 bits, bits, transparent pixels and a camera on its side."""
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.eye(4, 6) > 0).save(tmp_path / "bits.png")
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[0] = 10, 20, 30, 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    held = np.full((48, 32), 255, np.uint8)
    held[:, :16] = 0  # left; where a camera that was turned saw the bottom or the top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is left comes to the top
    Image.fromarray(held).save(tmp_path / "held.jpg", exif=exif)
    image_format = image_cache.ImageFormat((4, 6), 3)
    assert (image_cache.read_image(tmp_path / "16.png", image_format) == 40000 >> 8).all()
    assert (image_cache.read_image(tmp_path / "bits.png", image_format)[1] == 255 * np.eye(4, 6)).all()
    pixels = image_cache.read_image(tmp_path / "clear.png", image_format)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert (pixels[:, 1:] == 255).all()
    assert image_cache.read_header(tmp_path / "held.jpg") == ((32, 48), True)
    turned = image_cache.read_image(
        tmp_path / "held.jpg", image_cache.ImageFormat((32, 48), 1, size_from="another.jpg")
    )
    assert turned[0, :12].max() < 30
    assert turned[0, 20:].min() > 225


def test_a_large_jpeg_looks_the_same_whatever_part_of_it_is_decoded(tmp_path):
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (1024, 1024)).copy()).save(tmp_path / "a.jpg")
    pixels = image_cache.read_image(tmp_path / "a.jpg", image_cache.ImageFormat((16, 16), 1))[0].astype(float)
    assert np.abs(pixels - (np.arange(16) + 0.5) * 255 / 16).max() < 4


def test_broken_pictures_are_named_and_counted_before_training(tmp_path):
    folder(tmp_path / "good", 10)
    (tmp_path / "good" / "words.png").write_text("no picture")
    whole = (tmp_path / "good" / "03.png").read_bytes()
    (tmp_path / "good" / "half.png").write_bytes(whole[: len(whole) // 2])
    data = ImageFolder(str(tmp_path))
    with pytest.raises(ConfigurationError, match="2 of 12 pictures cannot be read") as error:
        data.prepare_data()
    assert "'good/half.png' (" in str(error.value)
    assert "'good/words.png' (cannot identify" in str(error.value)
    assert not list((tmp_path / ".lightning_avb").glob("*.[np]*"))
    (tmp_path / "good" / "words.png").unlink()
    (tmp_path / "good" / "half.png").write_bytes(whole)
    data.prepare_data()
    assert len(data.load()["train"].x) == 11


def test_decoded_once(tmp_path, reads):
    folder(tmp_path)
    ImageFolder(str(tmp_path)).prepare_data()
    assert sorted(reads) == sorted(path.name for path in tmp_path.glob("*.png"))
    reads.clear()
    for options in ({}, {"split_seed": 3}, {"val_share": 0.3}, {"binarize": "static"}, {"size": None}):
        ImageFolder(str(tmp_path), **options).setup("test")
    assert not reads


def test_a_changed_folder_is_decoded_anew(tmp_path, reads):
    folder(tmp_path)
    before = ImageFolder(str(tmp_path)).load()["train"].x
    reads.clear()
    old = (tmp_path / "07.png").stat()
    pixels = picture(tmp_path / "07.png", seed=99)
    os.utime(tmp_path / "07.png", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    after = ImageFolder(str(tmp_path)).load()["train"].x
    assert len(reads) == 20
    assert torch.equal(after[7], pixels)
    assert torch.equal(after[8:], before[8:])
    for change in (lambda: (tmp_path / "11.png").unlink(), lambda: (tmp_path / "12.png").rename(tmp_path / "99.png")):
        change()
        reads.clear()
        assert len(ImageFolder(str(tmp_path)).load()["train"].x) == len(reads) == 19
    reads.clear()
    assert ImageFolder(str(tmp_path), size=12).load()["train"].x.shape == (19, 3, 12, 12)
    assert ImageFolder(str(tmp_path), channels=1).load()["train"].x.shape == (19, 1, 48, 40)
    assert len(reads) == 38


@pytest.mark.parametrize("torn", [0, 1000, -3])
def test_an_interrupted_decode_goes_on(tmp_path, reads, monkeypatch, torn):
    """Also where the end of what was written is torn off in the middle of a picture, or of the file's head."""
    pixels = folder(tmp_path)
    counting = image_cache.read_image

    def interrupted(path, image_format):
        if path.endswith("13.png"):
            raise KeyboardInterrupt
        return counting(path, image_format)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_cache, "read_image", interrupted)
        ImageFolder(str(tmp_path)).prepare_data()
    (part,) = (tmp_path / ".lightning_avb").glob("*.part")
    assert not list((tmp_path / ".lightning_avb").glob("*.npy"))
    size = part.stat().st_size
    assert size % (3 * 48 * 40) == 128  # the head, and whole pictures
    os.truncate(part, 3 if torn == -3 else size - torn)
    done = 0 if torn == -3 else (size - torn) // (3 * 48 * 40)
    assert torn or done == 12
    reads.clear()
    x = ImageFolder(str(tmp_path)).load()["train"].x
    assert len(reads) == 20 - done
    assert torch.equal(x, pixels)
    assert not part.exists()


def test_one_of_several_processes_decodes(tmp_path, reads, monkeypatch, caplog):
    pixels = folder(tmp_path)
    counting = image_cache.read_image

    def slow(path, image_format):
        time.sleep(0.01)
        return counting(path, image_format)

    monkeypatch.setattr(image_cache, "read_image", slow)
    results = []
    with caplog.at_level("INFO"):
        threads = [
            threading.Thread(target=lambda: results.append(ImageFolder(str(tmp_path)).load()["train"].x))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(reads) == 20
    assert len(results) == 3
    assert all(torch.equal(x, pixels) for x in results)
    assert "another process is decoding" in caplog.text
    assert [path.suffix for path in (tmp_path / ".lightning_avb").iterdir()] == [".npy"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    folder(tmp_path / "pictures", 10)
    (tmp_path / "file").write_text("")
    place_of_it = str(tmp_path / "file" / "cache")
    with pytest.raises(
        ConfigurationError, match=rf"data\.cache: .* MB, cannot be written into '{place_of_it}': Not a dir"
    ):
        ImageFolder(str(tmp_path / "pictures"), cache=place_of_it).prepare_data()
    ImageFolder(str(tmp_path / "pictures"), cache=str(tmp_path / "elsewhere")).prepare_data()
    assert len(list((tmp_path / "elsewhere").glob("*.npy"))) == 1
    assert not (tmp_path / "pictures" / ".lightning_avb").exists()


def test_the_file_is_mapped_and_never_changed(tmp_path):
    pixels = folder(tmp_path)
    kept, mapped = (place(ImageFolder(str(tmp_path), batch_size=8, resident=resident)) for resident in (True, False))
    for loader in ("train_dataloader", "val_dataloader"):
        assert all(same(*pair) for pair in zip(getattr(kept, loader)(), getattr(mapped, loader)(), strict=True))
    assert mapped.split("train").x.data_ptr() == mapped.split("val").x.data_ptr()
    mapped.split("train").x.zero_()
    assert torch.equal(ImageFolder(str(tmp_path)).load()["train"].x, pixels)


def test_other_files_are_left_out_and_said(tmp_path, caplog):
    folder(tmp_path, 10)
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "raw.heic").write_text("")
    (tmp_path / "LICENSE").write_text("")
    with caplog.at_level("INFO"):
        ImageFolder(str(tmp_path)).prepare_data()
    (message,) = [line for line in caplog.messages if "left out" in line]
    assert all(part in message for part in ("1 with .heic", "1 with .txt", "1 with no extension"))


def test_what_cannot_be_a_folder_of_pictures_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=rf"data\.root: there is no folder '{tmp_path}/nowhere'"):
        ImageFolder(str(tmp_path / "nowhere")).prepare_data()
    (tmp_path / "a.heic").write_text("")
    with pytest.raises(ConfigurationError, match=r"data\.root: no pictures in .*only files: 1 with \.heic"):
        ImageFolder(str(tmp_path)).prepare_data()
    picture(tmp_path / "one.png")
    picture(tmp_path / "cats" / "two.png")
    with pytest.raises(ConfigurationError, match=r"beside its folders \('one\.png'\) and in them \('cats/two\.png'\)"):
        ImageFolder(str(tmp_path)).load()
    picture(tmp_path / "train" / "three.png")
    picture(tmp_path / "test" / "three.png")
    with pytest.raises(ConfigurationError, match=r"has folders test, train, so .* 'cats/two\.png' is not"):
        ImageFolder(str(tmp_path)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"data\.size: 0 is below 1"),
        ({"size": (3, 4, 5)}, r"data\.size: \(3, 4, 5\) is neither"),
        ({"channels": 2}, r"data\.channels: 2 is neither 1 \(grey\) nor 3"),
        ({"val_share": 1.0}, r"data\.val_share: 1\.0 is no share above 0 and below 1"),
    ],
)
def test_options_that_make_no_sense_are_named(tmp_path, options, message):
    folder(tmp_path, 3)
    with pytest.raises(ConfigurationError, match=message):
        ImageFolder(str(tmp_path), **options).setup("fit")


@pytest.fixture
def celeba(tmp_path):
    """The files of CelebA with six faces: a white square of 128x128 in the middle of black."""
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[45:173, 25:153] = 255
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06}.jpg" for number in range(1, 7)]
    for name in names:
        Image.fromarray(pixels).save(root / "img_align_celeba" / name)
    parts = "".join(f"{name} {part}\n" for name, part in zip(names, (0, 0, 0, 1, 2, 2), strict=True))
    (root / "list_eval_partition.txt").write_text(parts)
    values = "".join(f"{name} -1  {1 if number % 2 else -1}\n" for number, name in enumerate(names))
    (root / "list_attr_celeba.txt").write_text(f"6\nBald Smiling \n{values}")
    return tmp_path


def test_celeba_is_cut_out_of_the_middle_and_scaled(celeba):
    data = CelebA(str(celeba), attribute="Smiling")
    data.prepare_data()
    assert data.data_shape == (3, 64, 64)
    assert data.classes == 2
    assert [data.rows(stage) for stage in ("train", "val", "test")] == [3, 1, 2]
    assert [data.split(stage).y.tolist() for stage in ("train", "val", "test")] == [[0, 1, 0], [1], [0, 1]]
    assert next(iter(data.test_dataloader())).x.min() > 0.9
    few = CelebA(str(celeba), attribute="Smiling", labels=2).split("train").y
    assert sorted(few.tolist()) == [-1, 0, 1]
    wider = next(iter(CelebA(str(celeba), crop=148).test_dataloader())).x
    assert wider[..., :3, :].max() < 0.1
    assert wider[..., 6:-6, 6:-6].min() > 0.9


def test_celeba_names_what_is_missing(celeba, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"data\.attribute: there is no 'Grumpy'; there are Bald, Smiling"):
        CelebA(str(celeba), attribute="Grumpy").prepare_data()
    with pytest.raises(ConfigurationError, match=r"did you mean Smiling\?"):
        CelebA(str(celeba), attribute="smiling").prepare_data()
    (celeba / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(ConfigurationError, match=r"data\.root: '.*000002\.jpg': No such file"):
        CelebA(str(celeba)).prepare_data()

    def refuse(*args, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr(CelebA, "source", refuse)
    with pytest.raises(ConfigurationError, match=r"data\.root: no CelebA files in .*elsewhere/celeba': no network"):
        CelebA(str(celeba / "elsewhere")).prepare_data()
