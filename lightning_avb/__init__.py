"""Adversarially trained latent-variable models on PyTorch Lightning.

A class is imported when it is first asked for: `lightning-avb --help` needs neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adversarial import AdversarialObjective, AdversarialTerms
    from .batch import Batch
    from .checkpoints import load
    from .conditionals import (
        BernoulliDecoder,
        Decoder,
        DecoderRecipe,
        DeterministicEncoder,
        DiscretizedLogisticDecoder,
        Encoder,
        EncoderRecipe,
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
        PriorRecipe,
        SemiImplicitEncoder,
        StandardNormal,
        SwissRollPrior,
        TableDecoder,
    )
    from .contrasts import (
        Contrast,
        ContrastRecipe,
        FullGaussianContrast,
        GaussianContrast,
        PriorContrast,
        Reference,
    )
    from .density_ratio import CriticTerms, DensityRatio
    from .errors import ConfigurationError, DensityError, NonFiniteLossError
    from .game import Game
    from .models import (
        AAE,
        AVB,
        GAN,
        VAE,
        VAEGAN,
        AAEPlayers,
        AVBPlayers,
        BiGAN,
        BiGANPlayers,
        CategoricalAAE,
        CategoricalAAEPlayers,
        EncodingModel,
        GANPlayers,
        GenerativeModel,
        LatentVariableModel,
        Posterior,
        PosteriorPlayers,
        VAEGANPlayers,
        VAEPlayers,
    )
    from .networks import (
        MLP,
        ConvNet,
        Critic,
        CriticRecipe,
        DeconvNet,
        InnerProductCritic,
        InputNoise,
        Network,
        ResidualCritic,
        ResidualMLP,
        ScoreNetwork,
    )
    from .players import Cosine, Phase, PhaseResult, Player
    from .trained import Trained

__version__ = "0.2.0"

__all__ = [
    "AAE",
    "AVB",
    "GAN",
    "MLP",
    "VAE",
    "VAEGAN",
    "AAEPlayers",
    "AVBPlayers",
    "AdversarialObjective",
    "AdversarialTerms",
    "Batch",
    "BernoulliDecoder",
    "BiGAN",
    "BiGANPlayers",
    "CategoricalAAE",
    "CategoricalAAEPlayers",
    "ConfigurationError",
    "Contrast",
    "ContrastRecipe",
    "ConvNet",
    "Cosine",
    "Critic",
    "CriticRecipe",
    "CriticTerms",
    "Decoder",
    "DecoderRecipe",
    "DeconvNet",
    "DensityError",
    "DensityRatio",
    "DeterministicEncoder",
    "DiscretizedLogisticDecoder",
    "Encoder",
    "EncoderRecipe",
    "EncodingModel",
    "FlowEncoder",
    "FlowPrior",
    "FullGaussianContrast",
    "FullGaussianEncoder",
    "GANPlayers",
    "Game",
    "GaussianContrast",
    "GaussianDecoder",
    "GaussianEncoder",
    "GenerativeModel",
    "InnerProductCritic",
    "InputNoise",
    "LatentVariableModel",
    "MixturePrior",
    "Network",
    "NoiseBasisEncoder",
    "NoiseInjectionEncoder",
    "NonFiniteLossError",
    "NormalPrior",
    "PetalPrior",
    "Phase",
    "PhaseResult",
    "Player",
    "PooledMixtureEncoder",
    "Posterior",
    "PosteriorPlayers",
    "PriorContrast",
    "PriorRecipe",
    "Reference",
    "ResidualCritic",
    "ResidualMLP",
    "ScoreNetwork",
    "SemiImplicitEncoder",
    "StandardNormal",
    "SwissRollPrior",
    "TableDecoder",
    "Trained",
    "VAEGANPlayers",
    "VAEPlayers",
    "load",
]

_MODULES = (
    "adversarial",
    "batch",
    "checkpoints",
    "conditionals",
    "contrasts",
    "density_ratio",
    "errors",
    "game",
    "models",
    "networks",
    "players",
    "trained",
)
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
