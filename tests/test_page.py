"""The pictures of a run over time, its curves, and the page that shows both."""

from __future__ import annotations

import base64
import html.parser
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_cli import FIT
from test_comparison import colours
from test_runs import killed  # noqa: F401  a fixture

from lightning_avb import pictures
from lightning_avb.callbacks import Pictures
from lightning_avb.errors import ConfigurationError, UnwritableError
from lightning_avb.page import page, write_page

RUN = Path("runs", "digits", "vae", "version_0")
EVERY_EPOCH = ("--trainer.max_steps=240", "--checkpoint.every_n_train_steps=50")
FIXED = "--trainer.logger.init_args.version=0"
DRAWN = [12, 24, 48, 84, 144, 240]
"""Of 20 validations, one every 12 steps: those with 1.6 times the steps of the one before, and the last."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(folder):
    return [int(path.stem.rpartition("_")[2]) + 1 for path in sorted((folder / "pictures").glob("samples_*.png"))]


class Reader(html.parser.HTMLParser):
    """The tags of a page that are open, and what it would fetch."""

    EMPTY = ("meta", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.images, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        source = dict(attributes).get("src", "")
        (self.images if source.startswith("data:image/png;base64,") else self.fetched).append(source)
        self.fetched = [found for found in self.fetched if found]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# When pictures are drawn.


@pytest.mark.usefixtures("without_curves")
def test_pictures_are_spaced_geometrically_and_the_same_in_a_resumed_run(command, killed):  # noqa: F811
    command(*FIT, *EVERY_EPOCH, "--trainer.default_root_dir=whole")
    assert drawn(Path("whole", *RUN.parts[1:])) == DRAWN
    killed(130, *FIT, *EVERY_EPOCH, FIXED)
    command(*FIT, *EVERY_EPOCH, FIXED, "--ckpt_path=last")  # step 100: the next is at 144
    assert drawn(RUN) == DRAWN


@pytest.mark.usefixtures("without_curves")
def test_pictures_after_every_validation_and_at_the_end_only(command):
    command(*FIT, "--trainer.max_steps=60", "--pictures.spacing=1")
    assert drawn(RUN) == [12, 24, 36, 48, 60]
    command(*FIT, "--trainer.max_steps=60", "--pictures.spacing=1", "--pictures.every_n_epochs=2")
    assert drawn(RUN.with_name("version_1")) == [24, 48, 60]
    command(*FIT, "--trainer.max_steps=60", "--pictures.every_n_epochs=0")
    assert drawn(RUN.with_name("version_2")) == [60]
    for wrong in ({"spacing": 0.5}, {"spacing": float("nan")}, {"every_n_epochs": -1}, {"count": 0}):
        (name,) = wrong
        with pytest.raises(ConfigurationError, match=rf"^pictures\.{name}: .* is below"):
            Pictures(**wrong)


@pytest.mark.parametrize("validations", [200, 2000])
def test_a_long_run_keeps_a_readable_number_of_pictures(monkeypatch, validations):
    callback, kept = Pictures(), []
    monkeypatch.setattr(callback, "_draw", lambda trainer, _: kept.append(trainer.global_step))
    monkeypatch.setattr(callback, "_write_page", lambda _: None)
    for step in range(1, validations + 1):
        callback.on_validation_epoch_end(
            SimpleNamespace(global_step=step, current_epoch=step - 1, sanity_checking=False), None
        )
    assert kept[:6] == [1, 2, 4, 7, 12, 20] and 10 <= len(kept) <= 16
    assert all(1.6 <= later / earlier < 1.7 for earlier, later in pairwise(kept[5:]))


# The page.


def test_the_page_shows_figures_curves_pictures_and_configuration_in_one_file(command):
    command(*FIT, "--trainer.max_steps=48")
    text = (RUN / "index.html").read_text()
    found = Reader(text)
    assert found.open == [] and found.fetched == [] and "script" not in found.tags and "http" not in text
    files = sorted((RUN / "pictures").glob("*.png"), key=lambda path: path.name)
    assert len(files) == 1 + 3 * len(drawn(RUN))
    shown = {base64.b64decode(image.partition(",")[2]) for image in found.images if image}
    assert shown == {path.read_bytes() for path in files}
    assert re.findall(r"<figcaption>step (\d+)", text)[: len(drawn(RUN))] == [str(step) for step in drawn(RUN)]
    assert len(re.findall('<label title="full size"><input type="checkbox"><img [^>]*></label>', text)) == len(files)
    assert "metrics.csv" not in text.partition("<details>")[0]
    assert "<h1>digits/vae/version_0</h1>" in text and "48 steps of 48" in text and ", ended 2" in text
    assert re.search(r"<td>val/elbo</td>(<td class=number>[-\d.]+</td>){4}", text)
    config = re.search(r"<summary>Configuration</summary><pre>(.*?)</pre>", text, re.S)[1]
    assert yaml.safe_load(config.replace("&#x27;", "'").replace("&gt;", ">"))["trainer"]["max_steps"] == 48


def test_what_a_user_wrote_is_escaped(tmp_path):
    folder = tmp_path / "<b>"
    (folder / "pictures").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": "<script>alert(1)</script>"}))
    text = page(folder)
    assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text and "no steps yet" in text


@pytest.mark.parametrize(
    ("logger", "file", "said"),
    [
        (
            {"class_path": "x.TensorBoardLogger"},
            "events.out.tfevents.1",
            "TensorBoard: tensorboard --logdir ",
        ),
        (
            [{"class_path": "x.WandbLogger"}, {"class_path": "x.Mine"}],
            None,
            "its loggers: WandbLogger, Mine",
        ),
        (True, None, "in the folder.</p>"),
        (None, None, "in the folder.</p>"),
    ],
)
def test_a_run_without_its_figures_in_the_folder_says_where_they_are(tmp_path, logger, file, said):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    if file:
        (tmp_path / file).touch()
    assert "no metrics.csv in the folder" in page(tmp_path) and said in page(tmp_path)


def test_a_disk_that_is_full_ends_with_one_line(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UnwritableError, match=r"index\.html' could not be written \(No space left on device\)"):
        write_page(tmp_path)


# The curves.


def curves(tmp_path, columns, *rows):
    (tmp_path / "metrics.csv").write_text("\n".join([f"epoch,step,{columns}", *rows, ""]))
    return pictures.curves(tmp_path / "metrics.csv")


def test_a_stage_has_one_colour_in_every_panel(tmp_path):
    val_first = ("0,0,,1.0", "0,1,,2.0", "0,2,2.0,3.0", "0,3,1.0,1.5", "0,4,1.5,1.5")
    both = curves(tmp_path, "train/elbo,val/elbo", *val_first)
    assert colours(both, "C0", "C1", "C2") == ["C0", "C1"]
    alone = curves(tmp_path, "val/kl", "0,0,1.0", "0,1,2.0", "0,2,2.0")
    assert colours(alone, "C0", "C1", "C2") == ["C1"]
    assert colours(curves(tmp_path, "test/kl", "0,0,1.0"), "C0", "C1", "C2") == ["C2"]
    assert curves(tmp_path, "epochs", "0,0,1") is None


def test_panels_are_four_in_a_row(tmp_path):
    six = ",".join(f"val/{name}" for name in "abcdef")
    assert curves(tmp_path, six, "0,0,1,2,3,4,5,6", "0,1,1,2,3,4,5,6").shape == torch.Size((3, 600, 1600))
    assert curves(tmp_path, "val/a", "0,0,1").shape == torch.Size((3, 300, 400))
