"""Tensors in, tensors out."""

from .critics import Critic, InnerProductCritic, ResidualCritic
from .mlp import MLP, Network, Residual, activation_function, check_widths
from .noisy import NoiseBasis, NoisyMLP

__all__ = [
    "MLP",
    "Critic",
    "InnerProductCritic",
    "Network",
    "NoiseBasis",
    "NoisyMLP",
    "Residual",
    "ResidualCritic",
    "activation_function",
    "check_widths",
]
