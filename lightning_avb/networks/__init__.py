"""Tensors in, tensors out."""

from .conv import ConvNet, DeconvNet
from .critics import Critic, CriticRecipe, InnerProductCritic, ResidualCritic, ScoreNetwork
from .input_noise import InputNoise, check_noiseless
from .mlp import (
    MLP,
    Network,
    Residual,
    ResidualMLP,
    activation_function,
    check_no_batch_norm,
    check_widths,
    keep_statistics,
)
from .noisy import NoiseBasis, NoisyMLP

__all__ = [
    "MLP",
    "ConvNet",
    "Critic",
    "CriticRecipe",
    "DeconvNet",
    "InnerProductCritic",
    "InputNoise",
    "Network",
    "NoiseBasis",
    "NoisyMLP",
    "Residual",
    "ResidualCritic",
    "ResidualMLP",
    "ScoreNetwork",
    "activation_function",
    "check_no_batch_norm",
    "check_noiseless",
    "check_widths",
    "keep_statistics",
]
