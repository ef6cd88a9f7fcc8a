"""What `__init__` was called with is what a checkpoint holds, however the classes derive from each other."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from datamodules import Digits, Split, TensorDataModule
from lightning_avb import AVB, MLP, VAE, BiGAN, GaussianEncoder, checkpoints
from lightning_avb.errors import ConfigurationError
from lightning_avb.hyperparameters import Hyperparameters


class Base(Hyperparameters, pl.LightningModule):
    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        self.save_arguments("model.")
        self.width, self.depth = width, depth


class Left(Base):
    def __init__(self, width: int, left: str = "l", depth: int = 3) -> None:
        super().__init__(2 * width, depth)
        self.left = left


class Right(Base):
    def __init__(self, width: int, depth: int = 4, right: str = "r") -> None:
        super().__init__(width=width, depth=depth)
        self.right = right


class Both(Left, Right):
    """`super()` of Left is Right."""

    def __init__(self, both: int, width: int = 7) -> None:
        super().__init__(width, left="of both")
        self.both = both


class Heir(Both):
    pass


class Options(Right):
    def __init__(self, more: int = 1, **options) -> None:
        super().__init__(**options)
        self.more = more


class Places(Base):
    def __init__(self, *places, **options) -> None:
        super().__init__(*places, **options)


class Stranger:
    """Knows nothing of Lightning."""

    def __init__(self, *places, extra: int = 0, **options) -> None:
        super().__init__(*places, **options)
        self.extra = extra


class Mixed(Stranger, Base):
    pass


class Wide(VAE):
    """A model with a default of its own."""

    def __init__(
        self, latent_dim: int = 5, encoder=partial(GaussianEncoder, network=partial(MLP, hidden=(3,))), **more
    ):
        super().__init__(latent_dim, encoder, **more)


class Small(Digits):
    """Data with a default of its own; its argument is not that of the base class."""

    def __init__(self, batch_size: int = 3) -> None:
        super().__init__(2 * batch_size, 10)


class Held(TensorDataModule):
    def __init__(self, x) -> None:
        super().__init__(2)
        self.x = x

    def load(self) -> dict[str, Split]:
        return {stage: Split(self.x) for stage in ("train", "val", "test")}


def arguments(made) -> dict:
    """The hyper-parameters without the class path, which is checked."""
    found = dict(made.hparams)
    assert found.pop("_class_path") == f"{type(made).__module__}.{type(made).__qualname__}"
    assert dict(made.hparams_initial) == dict(made.hparams)
    return found


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: Base(3), {"width": 3, "depth": 2}),
        (lambda: Left(3, depth=9), {"width": 3, "left": "l", "depth": 9}),
        (lambda: Right(3, 9), {"width": 3, "depth": 9, "right": "r"}),
        (lambda: Both(1), {"both": 1, "width": 7}),
        (lambda: Heir(both=1, width=2), {"both": 1, "width": 2}),
        (lambda: Options(width=5), {"more": 1, "width": 5}),
        (lambda: Options(2, width=5, right="x"), {"more": 2, "width": 5, "right": "x"}),
        (lambda: Places(width=5), {"width": 5}),
        (lambda: Mixed(width=5, extra=2), {"extra": 2, "width": 5}),
        (lambda: Small(), {"batch_size": 3}),
    ],
    ids=lambda value: "" if callable(value) else "-".join(value),
)
def test_they_are_the_arguments_of_the_class_that_was_called(made, expected):
    once = made()
    assert arguments(once) == expected
    again = type(once)(**expected)
    assert arguments(again) == expected
    names = ("width", "depth", "left", "right", "both", "more", "extra", "batch_size", "eval_batch_size")
    assert [getattr(again, name, None) for name in names] == [getattr(once, name, None) for name in names]


def test_recipes_and_defaults_are_written_down():
    network = {"class_path": "lightning_avb.networks.mlp.MLP", "init_args": {"hidden": [3]}}
    encoder = {"class_path": "lightning_avb.conditionals.encoders.GaussianEncoder", "init_args": {"network": network}}
    assert arguments(Wide())["encoder"] == encoder
    assert arguments(Wide())["latent_dim"] == 5
    assert arguments(BiGAN(2))["accumulate"] == 1 and "_class_path" not in arguments(AVB(2))


@pytest.mark.parametrize("made", [lambda: Both(1), lambda: AVB(2, data_shape=(4,)), lambda: Digits(7)])
def test_copies_carry_the_hyper_parameters_and_nothing_else(made):
    once = made()
    state = set(vars(once))
    assert not any("argument" in name for name in state)
    for again in (copy.deepcopy(once), pickle.loads(pickle.dumps(once))):
        assert set(vars(again)) == state and dict(again.hparams) == dict(once.hparams)


def test_nothing_is_left_of_an_init_that_raised():
    class Careful(Both):
        def __init__(self, both: int, width: int = 7) -> None:
            super().__init__(both, width)
            if both < 0:
                raise ValueError("negative")

    made = Careful.__new__(Careful)
    with pytest.raises(ValueError, match="negative"):
        made.__init__(-1, 8)
    assert not any("argument" in name for name in vars(made))
    made.__init__(2)
    assert dict(made.hparams)["both"] == 2 and dict(made.hparams)["width"] == 7


def test_changing_them_leaves_what_the_loggers_are_told():
    data, model = Digits(7), AVB(2)
    data.hparams["batch_size"] = model.hparams["latent_dim"] = 9
    assert (data.hparams_initial["batch_size"], model.hparams_initial["latent_dim"]) == (7, 2)
    assert model._log_hyperparams and not data._log_hyperparams


def test_one_inside_another():
    """While one is made another is: each has its own."""

    class Outer(Base):
        def __init__(self, width: int) -> None:
            self_made = Base(width + 1, depth=5)
            super().__init__(width)
            self.inner = self_made

    outer = Outer(1)
    assert dict(outer.hparams)["width"] == 1 and "depth" not in outer.hparams
    assert arguments(outer.inner) == {"width": 2, "depth": 5}


def test_wrong_arguments_are_refused_in_the_words_of_python():
    with pytest.raises(TypeError, match=r"Left.__init__\(\) missing 1 required positional argument: 'width'"):
        Left()
    with pytest.raises(TypeError, match="unexpected keyword argument 'height'"):
        Digits(height=3)


def test_an_argument_without_a_name_is_refused():
    with pytest.raises(ConfigurationError, match=r"Places: \(5,\) for \*places; give arguments by name"):
        Places(5)


def test_what_cannot_be_stored_is_named():
    with pytest.raises(ConfigurationError, match=r"model\.width: tensor\(3\) cannot be stored"):
        Base(torch.tensor(3))
    with pytest.raises(ConfigurationError, match=r"data\.x: tensor.* cannot be stored"):
        Held(torch.zeros(2))


def test_signatures_stay_visible():
    assert list(inspect.signature(Left).parameters) == ["width", "left", "depth"]
    assert inspect.getfullargspec(Left.__init__).varkw is None  # how Lightning looks
    assert inspect.getfullargspec(Options.__init__).varkw == "options"
    assert Left.__init__.__qualname__ == "Left.__init__"


@pytest.mark.parametrize("kind", [Wide, VAE, BiGAN])
def test_a_model_comes_back_from_its_checkpoint(tmp_path, kind):
    """A user's class with a default of its own and **kwargs too."""
    model = kind(latent_dim=2, data_shape=(4,), classes=3)
    run = pl.Trainer(accelerator="cpu", logger=False, barebones=True)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "some.ckpt")
    for again in (kind.load_from_checkpoint(tmp_path / "some.ckpt"), checkpoints.load(tmp_path / "some.ckpt")):
        assert type(again) is kind and dict(again.hparams) == dict(model.hparams)
        assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", [Base, Heir, Options])
def test_lightning_makes_any_class_again(kind):
    made = kind(**{"both": 1} if kind is Heir else {"width": 3})
    file = io.BytesIO()
    torch.save({"state_dict": {}, "hyper_parameters": dict(made.hparams), "pytorch-lightning_version": "2.6.0"}, file)
    file.seek(0)
    assert dict(kind.load_from_checkpoint(file).hparams) == dict(made.hparams)
