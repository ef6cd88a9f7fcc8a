"""Adversarially trained latent-variable models on PyTorch Lightning.

A class is imported when it is first asked for: `lightning-avb --help` needs neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import Batch
    from .checkpoints import load
    from .conditionals import (
        AuxiliaryEncoder,
        BernoulliDecoder,
        BoundedNoiseEncoder,
        DeterministicEncoder,
        DiscretizedLogisticDecoder,
        FlowEncoder,
        FlowPrior,
        FullGaussianEncoder,
        GaussianDecoder,
        GaussianEncoder,
        MixturePrior,
        NoiseBasisEncoder,
        NoiseInjectionEncoder,
        NormalPrior,
        PetalPrior,
        PooledMixtureEncoder,
        SemiImplicitEncoder,
        StandardNormal,
        SwissRollPrior,
    )
    from .contrasts import FlowContrast, FullGaussianContrast, GaussianContrast, PriorContrast
    from .errors import ConfigurationError
    from .game import Game
    from .models import AAE, AVB, GAN, VAE, BiGAN, CategoricalAAE, Posterior
    from .networks import MLP, ConvNet, DeconvNet, InnerProductCritic, InputNoise, ResidualCritic, ResidualMLP
    from .players import Cosine, Phase, PhaseResult, Player

__version__ = "0.2.0"

__all__ = [
    "AAE",
    "AVB",
    "GAN",
    "MLP",
    "VAE",
    "AuxiliaryEncoder",
    "Batch",
    "BernoulliDecoder",
    "BiGAN",
    "BoundedNoiseEncoder",
    "CategoricalAAE",
    "ConfigurationError",
    "ConvNet",
    "Cosine",
    "DeconvNet",
    "DeterministicEncoder",
    "DiscretizedLogisticDecoder",
    "FlowContrast",
    "FlowEncoder",
    "FlowPrior",
    "FullGaussianContrast",
    "FullGaussianEncoder",
    "Game",
    "GaussianContrast",
    "GaussianDecoder",
    "GaussianEncoder",
    "InnerProductCritic",
    "InputNoise",
    "MixturePrior",
    "NoiseBasisEncoder",
    "NoiseInjectionEncoder",
    "NormalPrior",
    "PetalPrior",
    "Phase",
    "PhaseResult",
    "Player",
    "PooledMixtureEncoder",
    "Posterior",
    "PriorContrast",
    "ResidualCritic",
    "ResidualMLP",
    "SemiImplicitEncoder",
    "StandardNormal",
    "SwissRollPrior",
    "load",
]

_MODULES = ("batch", "checkpoints", "conditionals", "contrasts", "errors", "game", "models", "networks", "players")
"""Where the classes are."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f".{module}", __name__), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
