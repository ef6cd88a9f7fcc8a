"""Checkpoints as files: whole or damaged, and which one is meant."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from test_cli import FIT, VAE

from lightning_avb import AVB, __version__, checkpoints
from lightning_avb.checkpoints import AtomicCheckpointIO, damage, newest_undamaged, read_checkpoint, resolve_ckpt_path
from lightning_avb.errors import ConfigurationError, UnwritableError
from lightning_avb.resuming import VERSION_KEY

RUN = Path("runs", "digits", "vae", "version_0")
FIXED = ("--trainer.logger.init_args.version=0",)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """A checkpoint of an AVB that was never trained."""
    path = tmp_path_factory.mktemp("one") / "some.ckpt"
    torch.manual_seed(0)
    model = AVB(latent_dim=2, data_shape=(1, 8, 8), classes=10)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "optimizer_states": [],
        "global_step": 1,
        VERSION_KEY: __version__,
    }
    torch.save({**checkpoint, "pytorch-lightning_version": pl.__version__}, path)
    return path


@pytest.fixture
def place(one):
    """Puts checkpoints at the given paths, the oldest first."""

    def put(*paths):
        for age, path in enumerate(paths):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one, path)
            os.utime(path, (1000 + age, 1000 + age))

    return put


def flip(path, at=0.5):
    """One bit in the middle of a file, which keeps its age."""
    data, age = bytearray(Path(path).read_bytes()), Path(path).stat().st_mtime_ns
    data[int(len(data) * at)] ^= 1
    Path(path).write_bytes(data)
    os.utime(path, ns=(age, age))


def test_no_flipped_byte_is_read_as_something_else(tmp_path):
    """Over a whole small file: what has no fault is what was written, or torch itself refuses it."""
    path, written = tmp_path / "some.ckpt", torch.arange(300.0)
    torch.save({"weights": written}, path)
    assert damage(path) is None
    data, caught = path.read_bytes(), 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        caught += damage(path) is not None
        if damage(path) is None:
            try:
                read = torch.load(path, mmap=True, weights_only=True)["weights"]
            except Exception:  # the table of contents names something that is not there
                continue
            assert torch.equal(read, written)
    assert caught > 0.4 * len(data) / 7  # all of weights and names; not the gaps between them


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [(flip, "the checksum of its part"), (lambda path: os.truncate(path, 5000), "(File is not a zip file)"),
     (lambda path: os.truncate(path, 0), "it is empty")],
)  # fmt: skip
def test_damage_is_named_with_the_newest_whole_one_beside_it(place, damaged, reason):
    place("x/epoch=2.ckpt", "x/epoch=3.ckpt", "x/last.ckpt", "x/epoch=4.ckpt")
    flip("x/epoch=4.ckpt")
    damaged("x/last.ckpt")
    for read in (read_checkpoint, checkpoints.load, checkpoints.load_data):
        for location in ("x/last.ckpt", "x"):
            with pytest.raises(ConfigurationError) as error:
                read(location)
            assert str(error.value).startswith("ckpt_path: 'x/last.ckpt' is damaged (")
            assert reason in str(error.value)
            assert str(error.value).endswith("; the newest whole checkpoint there is 'x/epoch=3.ckpt'")


def test_a_checkpoint_of_version_0_1_is_refused(one, tmp_path):
    """It has no version; its class paths and buffers have other names."""
    path, checkpoint = tmp_path / "old.ckpt", torch.load(one, weights_only=True)
    del checkpoint[VERSION_KEY]
    checkpoint["hyper_parameters"]["players"]["init_args"]["model"]["class_path"] = "lightning_avb.game.Player"
    checkpoint["state_dict"]["log_volume"] = checkpoint["state_dict"].pop("log_jacobian")
    torch.save(checkpoint, path)
    refusal = (
        "was made by lightning_avb 0.1, which version .* cannot read; train again, or use it with lightning_avb 0.1"
    )
    for read in (read_checkpoint, checkpoints.load, checkpoints.load_datamodule):
        with pytest.raises(ConfigurationError, match=f"^ckpt_path: '{path}' {refusal}$"):
            read(path)
    with pytest.raises(ConfigurationError, match=f"^ckpt_path: the checkpoint {refusal}$"):
        AVB(latent_dim=2, data_shape=(1, 8, 8), classes=10).on_load_checkpoint(checkpoint)


def test_what_the_location_of_a_checkpoint_can_be(place):
    place("run/checkpoints/last.ckpt", "run/checkpoints/last-v1.ckpt", "run/checkpoints/epoch=4.ckpt")
    newest_last = Path("run/checkpoints/last-v1.ckpt")
    assert resolve_ckpt_path("run/checkpoints/epoch=4.ckpt", None) == Path("run/checkpoints/epoch=4.ckpt")
    assert resolve_ckpt_path("run", None) == resolve_ckpt_path("run/checkpoints", None) == newest_last
    assert resolve_ckpt_path("last", Path("run/checkpoints")) == newest_last
    assert (
        resolve_ckpt_path("last", Path("new/checkpoints")) is resolve_ckpt_path(None, Path("run/checkpoints")) is None
    )
    assert resolve_ckpt_path("hpc", Path("run/checkpoints")) == Path("run/checkpoints/epoch=4.ckpt")
    Path("empty").mkdir()
    for asked, kept, fit, says in (
        ("nowhere.ckpt", None, True, "there is no file 'nowhere.ckpt'"),
        ("empty", None, True, "there is no last.ckpt in the folder 'empty'"),
        ("last", None, True, "a new one at every start; fix it by the logger's version or checkpoint.dirpath"),
        ("last", Path("empty"), False, "there is no last.ckpt in 'empty'"),
        ("hpc", Path("empty"), True, "there is no checkpoint in 'empty'"),
        ("best", None, True, "'best' is not known here"),
        ("registry:some", None, True, "'registry:some' is not known here"),
    ):
        with pytest.raises(ConfigurationError, match=r"^ckpt_path: ") as error:
            resolve_ckpt_path(asked, kept, fit)
        assert says in str(error.value)


def test_a_job_that_was_started_again_goes_on_from_the_newest_whole_checkpoint(place, monkeypatch, caplog):
    own = Path("run/checkpoints")
    place("before.ckpt")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for count in (None, "0"):
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        if count:
            monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        assert resolve_ckpt_path(None, own) is None and resolve_ckpt_path("before.ckpt", own) == Path("before.ckpt")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert resolve_ckpt_path(None, own) is None
    assert "no checkpoint in 'run/checkpoints'; the job starts from scratch again" in caplog.text
    assert resolve_ckpt_path("before.ckpt", own) == Path("before.ckpt")
    place(own / "epoch=1.ckpt", own / "last.ckpt")
    for asked in (None, "last", "hpc", "before.ckpt"):
        assert resolve_ckpt_path(asked, own) == own / "last.ckpt"
    assert resolve_ckpt_path("before.ckpt", own, fit=False) == Path("before.ckpt")
    flip(own / "last.ckpt")
    assert resolve_ckpt_path(None, own) == own / "epoch=1.ckpt"
    assert "'run/checkpoints/last.ckpt' is damaged" in caplog.text
    flip(own / "epoch=1.ckpt")
    with pytest.raises(
        ConfigurationError, match=r"'run/checkpoints/last\.ckpt' is damaged .*no checkpoint there is whole"
    ):
        resolve_ckpt_path(None, own)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_every_route_checks_the_file(stage, place, refusal):
    place(RUN / "checkpoints/epoch=3.ckpt", RUN / "checkpoints/last.ckpt")
    flip(RUN / "checkpoints/last.ckpt")
    for given, more in (("last", FIXED), (RUN, ()), (RUN / "checkpoints", ()), (RUN / "checkpoints/last.ckpt", ())):
        line = refusal(stage, "--config", VAE, "--ckpt_path", given, *more)
        assert line.startswith(f"error: ckpt_path: '{RUN}/checkpoints/last.ckpt' is damaged (the checksum")
        assert line.endswith(f"the newest whole checkpoint there is '{RUN}/checkpoints/epoch=3.ckpt'")
    Path("fixed.yaml").write_text("trainer: {logger: {init_args: {version: 0}}}")
    assert "is damaged" in refusal(stage, "--config", VAE, "--config=fixed.yaml", "--ckpt_path=last")
    assert not list(Path("runs").rglob("*.csv"))


def test_own_commands_take_a_folder_and_check_it(place, command, refusal):
    place("run/checkpoints/last.ckpt", "run/checkpoints/epoch=3.ckpt")
    command("sample", "--ckpt_path", "run", "--output", "some.png")
    assert Path("some.png").exists()
    flip("run/checkpoints/last.ckpt")
    for task in ("sample", "reconstruct", "interpolate", "traverse"):
        line = refusal(task, "--ckpt_path", "run", "--output", "other.png")
        assert "'run/checkpoints/last.ckpt' is damaged" in line and "epoch=3.ckpt" in line


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_an_untrained_network_is_not_judged(stage, refusal):
    line = refusal(stage, "--config", VAE)
    assert line.startswith(f"error: ckpt_path: `{stage}` needs a trained model")
    assert "ckpt_path: 'last': there is no last.ckpt" in refusal(stage, "--config", VAE, "--ckpt_path=last", *FIXED)
    assert not list(Path.cwd().rglob("version_*"))


# A disk that is full.


@pytest.fixture
def limited():
    """No file of this process may grow beyond 20 kB: the system answers as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(limited, tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "x" / "last.ckpt"
    with pytest.raises(
        UnwritableError, match=r"last\.ckpt' could not be written \(File too large\); there is no previous"
    ):
        io.save_checkpoint({"weights": torch.zeros(100000)}, path)
    io.save_checkpoint({"weights": torch.ones(10)}, path)
    with pytest.raises(UnwritableError, match=r"\(File too large\); the previous one is kept"):
        io.save_checkpoint({"weights": torch.zeros(100000)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path)["weights"].equal(torch.ones(10))


def test_a_full_disk_ends_a_run_in_one_line(monkeypatch, refusal):
    written = []

    def full(checkpoint, file):
        file.write(b"PK")
        written.append(file.name)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        save(checkpoint, file)

    save = torch.save
    monkeypatch.setattr(torch, "save", full)
    line = refusal(*FIT, code=1)
    assert line.startswith("error: 'runs/digits/vae/version_0/checkpoints/")
    assert line.endswith("could not be written (No space left on device); there is no previous one")
    assert {path.name for path in (RUN / "checkpoints").iterdir()} == {"epoch=0-step=12.ckpt", "last.ckpt"}


def test_draws_on_a_full_disk_are_said_in_one_line(place, refusal, request):
    place("run/checkpoints/last.ckpt")
    request.getfixturevalue("limited")
    for output, few in (("some.npy", 400), ("some.png", 4000)):
        line = refusal("sample", "--ckpt_path", "run", "--output", output, "--n", few, code=1)
        assert line.startswith(f"error: '{output}' could not be written (")
        assert not Path(output).exists()


# What a kill leaves behind.


def test_what_a_kill_has_left_is_removed_or_counted(command, caplog):
    options = (*FIT, *FIXED, "--pictures.every_n_epochs=0")
    command(*options, "--trainer.max_steps=12")
    folder = RUN / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"epoch=0-step=12.ckpt", "last.ckpt"}
    # Died while it wrote one, and earlier between the writing of a new best and that of last.ckpt.
    shutil.copy(folder / "last.ckpt", folder / "epoch=1-step=24.ckpt")
    (folder / ".epoch=1-step=23.ckpt.part").write_bytes(b"PK")
    caplog.clear()
    command(*options, "--ckpt_path=last", "--trainer.max_steps=24")
    assert "'runs/digits/vae/version_0/checkpoints/.epoch=1-step=23.ckpt.part'" in caplog.text
    left = "checkpoint: 1 of an earlier start in 'runs/digits/vae/version_0/checkpoints' are not tracked by this run"
    assert f"{left}: epoch=1-step=24.ckpt" in caplog.text
    names = {path.name for path in folder.iterdir()}
    assert names == {"epoch=1-step=24.ckpt", "epoch=1-step=24-v1.ckpt", "last.ckpt"}
    assert newest_undamaged(folder) == folder / "last.ckpt"
