"""What is left out of what Lightning and torch say: praise of other packages, and advice that is not for users."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

ADVERTISEMENT = r"\S* ?Tip: For seamless cloud (logging|uploads)"
NOT_FOR_USERS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # which counts over epochs
)


@contextmanager
def without_advertisements() -> Iterator[None]:
    """Within the block these lines and warnings are left out."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addFilter(_is_no_advertisement)
    try:
        with warnings.catch_warnings():
            for message in NOT_FOR_USERS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.removeFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not re.match(ADVERTISEMENT, record.getMessage())


@contextmanager
def warnings_alone() -> Iterator[None]:
    """Within the block Lightning's lines are left out, and so are this library's, which go the same way."""
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)
