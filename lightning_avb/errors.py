"""Errors that a user can cause, what their messages suggest, and checks of arguments."""

import difflib
import errno
import math
from collections.abc import Iterable
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


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` with the most similar name, in any case; empty if no name is similar."""
    by_lower = {other.lower(): other for other in names if other != name}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, 0.5)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with a text file, as a predicate, and what to do about it."""
    byte = error.object[error.start]
    likely = "utf-16" if error.start == 0 and byte in (0xFE, 0xFF) else "latin1"
    return f"is not in UTF-8 (byte 0x{byte:02x}); if it is in {likely}: iconv -f {likely} -t utf-8 FILE > NEW_FILE"


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
