"""Arrays in `.npy` files that are mapped into memory, however large they are."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Of Linux; Python has a name for it from 3.13 on."""


def map_array(path: str | Path) -> np.ndarray:
    """The array of a `.npy` file, read where it is used; what is written into the array does not reach the file.

    Linux sets memory aside for all that could be written, and refuses arrays larger than the memory; here it is told
    not to.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no `.npy` file, or holds Python objects.
    """
    if sys.platform != "linux":
        return np.load(path, mmap_mode="c")
    found = np.load(path, mmap_mode="r")
    with open(path, "rb") as file:
        private, both = mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        memory = mmap.mmap(file.fileno(), 0, flags=private, prot=both)
    return np.ndarray(found.shape, found.dtype, memory, found.offset, order="C" if found.flags.c_contiguous else "F")
