"""Pictures decoded once: many files in, one tensor out that is mapped from a file beside them.

The tensor is uint8, `(pictures, channels, height, width)`, in a `.npy` file whose name is a hash of the pictures'
paths, sizes and times of change and of all settings. A changed folder has another name, and is decoded anew; old files
may be deleted at any time.

Decoding writes to a `.part` file in the order of the pictures and renames it at the end. A decode that was interrupted
goes on behind the pictures that are there. Of several processes one decodes, and the others wait and map the same
file.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from tqdm import tqdm

from lightning_avb.errors import ConfigurationError

from .tensors import ahead

VERSION = 1
"""Goes up when `read` gives other pixels than before."""

BLOCK = 64
"""Pictures that a thread works on at a time."""

_GREY = ("1", "L", "La", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112


class Look(NamedTuple):
    """How pictures are to look.

    Attributes:
        size: height and width.
        channels: 1 for grey, 3 for colour.
        crop: the side of a square that is cut out of the middle first; None: as much as has the proportions of `size`.
        like: the picture that gave `size`, which all the others must have; None: they are scaled to it.
    """

    size: tuple[int, int]
    channels: int
    crop: int | None = None
    like: str | None = None


def orientation(picture: Image.Image) -> int:
    """How a camera was held, 1 to 8, from 5 on its side. Only in formats that cameras write."""
    return picture.getexif().get(_ORIENTATION, 1) if picture.format in ("JPEG", "MPO", "WEBP") else 1


def height_and_width(picture: Image.Image) -> tuple[int, int]:
    """Those of a picture when it is upright."""
    return picture.size if orientation(picture) > 4 else picture.size[::-1]


def read(path: str, look: Look) -> np.ndarray:
    """`(channels, height, width)` uint8: upright as its EXIF data says, on white where transparent, 16 bits as 8.

    Raises:
        ConfigurationError: it has not the size that it must have.
    """
    (height, width), channels, crop, like = look
    with Image.open(path) as file:
        if like is not None and (its := height_and_width(file)) != (height, width):
            raise ConfigurationError(
                f"data.size: the pictures have different sizes: {like!r} is {height}x{width}, {path!r} is {its[0]}x"
                f"{its[1]} (height x width); set data.size to what they are to have, such as 64 or [48, 40]"
            )
        if crop is None and like is None:
            side = 2 * max(height, width)
            file.draft(None, (side, side))  # type: ignore[arg-type]  # a JPEG larger than that is not decoded in full
        picture: Image.Image = ImageOps.exif_transpose(file) if orientation(file) != 1 else file
        if picture.mode == "F" or (picture.mode == "I" and file.format != "PNG"):
            raise ValueError(f"has {picture.mode} values of 32 bits")
        if picture.mode.startswith("I"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        if picture.mode != (mode := "L" if channels == 1 else "RGB"):
            picture = picture.convert(mode)
        if crop is not None:
            left, top = (picture.width - crop) // 2, (picture.height - crop) // 2
            picture = picture.crop((left, top, left + crop, top + crop))
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height))
        pixels = np.asarray(picture).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def header(path: str) -> tuple[tuple[int, int], bool] | None:
    """Height and width of a picture, and whether it is grey, without decoding it; None: it cannot be read."""
    try:
        with Image.open(path) as picture:
            return height_and_width(picture), picture.mode in _GREY
    except Exception:  # `decode` names all that cannot be read
        return None


def common_look(root: Path, files: Sequence[str], size: tuple[int, int] | None, channels: int | None) -> Look:
    """What the pictures are to have in common, where it is not given: the size of the first; grey if all are."""
    if size is not None and channels is not None:
        return Look(size, channels)
    paths = [os.path.join(root, file) for file in files]
    for first in paths:
        if found := header(first):
            break
    else:
        return Look(size or (1, 1), channels or 1)
    ours, grey = found
    if grey and channels is None:
        with ThreadPoolExecutor() as pool:
            grey = all(ahead(pool, _grey, blocks(paths), os.cpu_count() or 1))
    return Look(size or ours, channels or (1 if grey else 3), like=None if size else first)


def _grey(paths: Sequence[str]) -> bool:
    return all(found is None or found[1] for found in map(header, paths))


def decoded(
    root: Path,
    files: Sequence[str],
    cache: Path,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    crop: int | None = None,
) -> Tensor:
    """The pictures as one tensor that is mapped from a file in `cache`; they are decoded into it if it is not there.

    Args:
        root: folder of the pictures.
        files: their paths below `root`.
        cache: folder of the decoded file.
        size: height and width; None: the one that all of them have.
        channels: 1 or 3; None: 1 if all of them are grey, else 3.
        crop: see `Look`.

    Returns:
        `(pictures, channels, height, width)` uint8, in the order of `files`.

    Raises:
        ConfigurationError: pictures of different sizes without `size`, pictures that cannot be read, or no way to
            write into `cache`.
    """
    try:
        stats = [os.stat(os.path.join(root, file)) for file in files]
    except OSError as error:
        raise ConfigurationError(f"data.root: {str(error.filename)!r}: {error.strerror}") from error
    listing = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)]
    settings = json.dumps([VERSION, size, channels, crop, listing])
    path = cache / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        look = common_look(root, files, size, channels)._replace(crop=crop)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _acquired(FileLock(path.with_suffix(".lock")), root):
                if not path.exists():
                    try:
                        decode(root, files, look, path)
                    except ConfigurationError:
                        path.with_suffix(".part").unlink()
                        raise
        except OSError as error:
            needed = len(files) * look.channels * math.prod(look.size)
            raise ConfigurationError(
                f"data.cache: the decoded pictures, {needed / 1e6:,.1f} MB, cannot be written into {str(cache)!r}: "
                f"{error.strerror or error}; set data.cache to a folder where they can"
            ) from error
    # Copy on write: nothing that is done to the tensor reaches the file.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _acquired(lock: FileLock, root: Path) -> AbstractContextManager[Any]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        rank_zero_info(f"data: another process is decoding {str(root)!r}; waiting for it")
        return lock.acquire()


def decode(root: Path, files: Sequence[str], look: Look, path: Path) -> None:
    """Writes the pictures into a new file, or finishes the one that was begun.

    Raises:
        ConfigurationError: some cannot be read; says which, and how many. Or one has another size.
    """
    start, shape = time.monotonic(), (look.channels, *look.size)
    head = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
    np.lib.format.write_array_header_1_0(head, layout)
    begin, each = len(head.getvalue()), math.prod(shape)
    part, broken = path.with_suffix(".part"), dict[str, Any]()
    with part.open("ab") as file, ThreadPoolExecutor() as pool:
        done = max(0, (file.tell() - begin) // each)
        file.truncate(begin + done * each if done else 0)
        file.write(b"" if done else head.getvalue())
        todo = blocks(files[done:])
        with tqdm(total=len(files), initial=done, desc="decoding", unit=" pictures") as bar:
            work = ahead(pool, partial(_read_block, root, look), todo, 4 * (os.cpu_count() or 1))
            for names, pictures in zip(todo, work, strict=True):
                broken |= {name: found for name, found in zip(names, pictures, strict=True) if isinstance(found, str)}
                if not broken:
                    file.write(np.stack(pictures))  # type: ignore[arg-type]
                bar.update(len(names))
        file.flush()
        os.fsync(file.fileno())
    if broken:
        some = "; ".join(f"{name!r} ({reason})" for name, reason in list(broken.items())[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise ConfigurationError(f"data.root: {len(broken)} of {len(files)} pictures cannot be read: {some}{more}")
    part.replace(path)
    written = f"{str(path)!r}, {path.stat().st_size / 1e6:,.1f} MB"
    rank_zero_info(f"data: {len(files):,} pictures decoded in {time.monotonic() - start:.1f} s into {written}")


def blocks(files: Sequence[str]) -> list[Sequence[str]]:
    """What a thread does at a time: a call for every picture would cost as much as a small picture."""
    return [files[start : start + BLOCK] for start in range(0, len(files), BLOCK)]


def _read_block(root: Path, look: Look, files: Sequence[str]) -> list[np.ndarray | str]:
    """The pictures; what is wrong in place of one that cannot be read."""
    pictures: list[np.ndarray | str] = []
    for file in files:
        try:
            pictures.append(read(os.path.join(root, file), look))
        except ConfigurationError:
            raise
        except Exception as error:  # decoders raise all kinds; every one is reported
            pictures.append(str(error) or type(error).__name__)
    return pictures
