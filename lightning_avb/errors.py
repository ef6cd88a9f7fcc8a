"""Errors that a user can cause, and checks of arguments."""

import errno
import math
from numbers import Integral

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a file system that cannot be written any more."""


class ConfigurationError(Exception):
    """A wrong configuration or argument; the message names the key, the value and what was expected.

    The command line prints it in one line and ends with exit code 2.
    """


class NonFiniteLossError(RuntimeError):
    """A loss became nan or infinite; the message names the player and the step."""


class DensityError(RuntimeError):
    """A user's log-density raised an exception; the message names the target and the point.

    The command line prints it in one line and ends with exit code 1.
    """


class UnwritableError(OSError):
    """A file could not be written, usually because the disk is full. The message names the file.

    The command line prints it in one line and ends with exit code 1.
    """


def at_least(minimum: int, **argument: int) -> int:
    """The argument's value.

    Raises:
        ConfigurationError: it is below the minimum, or no whole number; the message names it.
    """
    ((name, value),) = argument.items()
    if not isinstance(value, Integral):
        raise ConfigurationError(f"{name}: {value!r} is not a whole number")
    if value < minimum:
        raise ConfigurationError(f"{name}: {value} is below {minimum}")
    return value


def check_weights(**weights: float) -> None:
    """Raises ConfigurationError if a weight is negative, infinite or nan; the message names the argument."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigurationError(f"{name}: {weight} is not a weight, a finite number that is not below 0")
