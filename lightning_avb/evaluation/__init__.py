"""Estimators of log p(x), as pure functions of a decoder, a prior and data."""

from .quadrature import Quadrature, log_likelihood

__all__ = ["Quadrature", "log_likelihood"]
