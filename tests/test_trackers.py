"""What TensorBoard and Weights & Biases have of a run, read back from their files."""

from __future__ import annotations

import csv
import json
import re
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

FIT = """
seed_everything: 0
model:
  class_path: VAE
  init_args:
    latent_dim: 2
    encoder:
      class_path: GaussianEncoder
      init_args: {network: &small {class_path: lightning_avb.MLP, init_args: {hidden: [8]}}}
    decoder: {class_path: BernoulliDecoder, init_args: {network: *small}}
data: {class_path: Digits, init_args: {batch_size: 300, binarize: dynamic}}
checkpoint: {every_n_train_steps: 5, save_top_k: -1}
trainer:
  max_steps: 10
  log_every_n_steps: 2
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    - {class_path: lightning_avb.records.MetricsLogger, init_args: {version: 0}}
    - {class_path: TensorBoardLogger, init_args: {save_dir: ., version: 0}}
    - {class_path: WandbLogger, init_args: {save_dir: ., project: digits, log_model: true}}
"""
PICTURES = ("samples", "reconstructions", "interpolations", "latent_plane")


def wandb_records(path):
    """The records of an offline run's file: blocks of 32 KiB with pieces of (checksum, length, whole or which part)."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        if at % 2**15 > 2**15 - 7:
            at += -at % 2**15
            continue
        length, kind = struct.unpack("<HB", raw[at + 4 : at + 7])
        record += raw[at + 7 : (at := at + 7 + length)]
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


class Offline:
    """What an offline run has sent."""

    def __init__(self, folder):
        self.folder, self.history, self.config, self.artifacts, self.id = folder, [], {}, [], ""
        for record in wandb_records(next(folder.glob("*.wandb"))):
            if record.HasField("run"):
                self.id, self.name = record.run.run_id, record.run.display_name
            for item in record.config.update:
                self.config[item.key] = json.loads(item.value_json)
            if record.HasField("artifact"):
                self.artifacts.append(record.artifact)
            if record.history.item:
                row = defaultdict(dict)
                for item in record.history.item:
                    name, *inner = item.nested_key or [item.key]
                    value = json.loads(item.value_json)
                    row[name] = {**row[name], inner[0]: value} if inner else value
                self.history.append(dict(row))

    def of(self, name):
        """(step, value) of a name."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """A run of ten steps, the same resumed at step 5 as after a crash, and a test, at three loggers."""
    pytest.importorskip("tensorboard")
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # its service, if another test has started it, writes below that test's folder
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr("lightning_avb.pictures.curves", lambda metrics: None)
        config = Path("digits/vae.yaml")
        config.parent.mkdir()
        config.write_text(FIT)
        checkpoints = folder / "runs/digits/vae/version_0/checkpoints"
        command("fit", "--config", config)
        wandb.finish()
        command("fit", "--config", config, "--ckpt_path", checkpoints / "epoch=1-step=5.ckpt")
        wandb.finish()
        for logger in ("WandbLogger", "TensorBoardLogger"):
            place = ["--trainer.logger.save_dir=.", *["--trainer.logger.project=digits"] * (logger == "WandbLogger")]
            small = ("--likelihood.estimators=[importance]", "--likelihood.rows=5", "--likelihood.samples=5")
            last = ("--ckpt_path", checkpoints / "last.ckpt")
            command("test", "--config", config, *last, "--trainer.logger", logger, *place, *small)
            wandb.finish()
    return folder


@pytest.fixture(scope="module")
def offline(run):
    return [Offline(folder) for folder in sorted(run.glob("**/offline-run-*"))]


@pytest.fixture(scope="module")
def curves(run):
    """metrics.csv: name -> (step, value)."""
    found = defaultdict(list)
    with open(run / "runs/digits/vae/version_0/metrics.csv") as file:
        for row in csv.DictReader(file):
            for name in row.keys() - {"step"}:
                if row[name]:
                    found[name].append((int(row["step"]), pytest.approx(float(row[name]), rel=1e-5)))
    assert {"train/elbo", "val/elbo"} < found.keys()
    return dict(found)


def events(run, folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / folder), size_guidance={"images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def tensorboard(run):
    return events(run, "runs/digits/vae/version_0")


def text_of(accumulator, name):
    return accumulator.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()


def test_curves_at_tensorboard_are_those_of_the_file(tensorboard, curves):
    """Also of a run that was resumed: what it had written after the checkpoint is hidden."""
    names = [name for name in tensorboard.Tags()["scalars"] if not name.startswith("test/")]
    scalars = {name: tensorboard.Scalars(name) for name in names}
    assert scalars["epoch"].pop().step == 9  # of the test
    assert {name: [(event.step, event.value) for event in found] for name, found in scalars.items()} == curves


def test_curves_at_wandb_are_those_of_the_file(offline, curves):
    first, resumed, _ = offline
    for name, values in curves.items():
        assert [pair for pair in first.of(name) if pair[0] < 5] + resumed.of(name) == values


def test_pictures_at_tensorboard_have_captions(tensorboard):
    assert {*PICTURES} == {*tensorboard.Tags()["images"]}
    for name in PICTURES:
        assert "; after " in tensorboard.SummaryMetadata(name).summary_description


def test_pictures_at_wandb_are_those_of_the_folder(run, offline):
    for name in PICTURES:
        step, shown = offline[1].of(name)[-1]
        assert shown["captions"][0].endswith("; after 10 steps") and step == 9
        theirs, ours = (
            np.array(Image.open(path))
            for path in (
                offline[1].folder / "files" / shown["filenames"][0],
                run / f"runs/digits/vae/version_0/pictures/{name}_0000009.png",
            )
        )
        assert ours.max() > 100 and (theirs == ours).all()


def test_the_configuration_is_the_resolved_one(run, tensorboard, offline):
    written = yaml.safe_load((run / "runs/digits/vae/version_0/config.yaml").read_text())
    assert written["data"]["init_args"]["batch_size"] == 300
    assert yaml.safe_load(text_of(tensorboard, "configuration").strip("`").removeprefix("yaml")) == written
    assert {key: offline[0].config[key] for key in written} == written


def test_checkpoints_are_artifacts(run, offline):
    artifact = offline[0].artifacts[-1]
    assert artifact.type == "model" and json.loads(artifact.metadata)["original_filename"] == "last.ckpt"


def test_starts_share_one_run_at_wandb(run, offline):
    last = torch.load(run / "runs/digits/vae/version_0/checkpoints/last.ckpt", weights_only=True)
    assert [one.id for one in offline] == [last["wandb_id"]] * 3
    assert offline[0].name == "digits/vae"


def test_tables_of_the_test(run, offline, tensorboard):
    step, shown = offline[2].of("test/likelihood")[-1]
    table = json.loads((offline[2].folder / "files" / shown["path"]).read_text())
    assert step == 9 and [row[0] for row in table["data"]][:2] == ["elbo", "importance"]
    (step, _), *more = offline[2].of("test/elbo")
    assert step == 9 and not more
    assert tensorboard.Scalars("test/elbo")[0].step == 9 and not list(run.rglob("version_1"))
    text = text_of(tensorboard, "test/likelihood")
    assert text.splitlines()[0].startswith("| estimate | nats per datum |")
    assert "q(z\\|x)" in text and len({len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()}) == 1
