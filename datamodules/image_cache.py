"""Pictures that are decoded once: from many files to one tensor, which is mapped from a file beside them.

The tensor is uint8, `(pictures, channels, height, width)`, in a `.npy` file. Its name is a hash of the pictures' paths,
sizes and modification times and of all settings: if one of these changes, the pictures are decoded again into another
file. Old files may be deleted at any time.

Decoding writes to a `.part` file in the order of the pictures and renames it at the end. A decoding that was
interrupted continues after the pictures that are there. Of several processes one decodes, and the others wait and map
the same file.
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
from contextlib import AbstractContextManager, suppress
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

from .loaders import prefetch_map
from .mapping import map_array

VERSION = 1
"""Increases when `read_image` gives other pixels than before."""

BLOCK = 64
"""Pictures that a thread decodes in one call: one call per picture would cost as much as a small picture."""

_GREY_MODES = ("1", "L", "La", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_EXIF_ORIENTATION = 0x0112


class ImageFormat(NamedTuple):
    """What decoded pictures have in common.

    Attributes:
        size: height and width.
        channels: 1 for grey, 3 for colour.
        crop: the side of a square that is cut out of the middle first; None: the largest part with the proportions of
            `size`.
        size_from: the picture that `size` comes from, which all the others must have; None: they are scaled to it.
    """

    size: tuple[int, int]
    channels: int
    crop: int | None = None
    size_from: str | None = None


def exif_orientation(picture: Image.Image) -> int:
    """1 (upright) to 8; from 5 on height and width are exchanged. Read only in formats that cameras write."""
    return picture.getexif().get(_EXIF_ORIENTATION, 1) if picture.format in ("JPEG", "MPO", "WEBP") else 1


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Height and width of a picture when it is upright."""
    return picture.size if exif_orientation(picture) > 4 else picture.size[::-1]


def read_image(path: str, image_format: ImageFormat) -> np.ndarray:
    """`(channels, height, width)` uint8: upright as its EXIF data says, on white where transparent, 16 bits as 8.

    Raises:
        ConfigurationError: it does not have the size that it must have.
    """
    (height, width), channels, crop, size_from = image_format
    with Image.open(path) as file:
        if size_from is not None and (other := upright_size(file)) != (height, width):
            raise ConfigurationError(
                f"data.size: the pictures have different sizes: {size_from!r} is {height}x{width}, {path!r} is "
                f"{other[0]}x{other[1]} (height x width); set data.size to one size for all, such as 64 or [48, 40]"
            )
        if crop is None and size_from is None:
            side = 2 * max(height, width)
            file.draft(None, (side, side))  # type: ignore[arg-type]  # a JPEG larger than that is not decoded in full
        picture: Image.Image = ImageOps.exif_transpose(file) if exif_orientation(file) != 1 else file
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


def read_header(path: str) -> tuple[tuple[int, int], bool] | None:
    """Height and width of a picture, and whether it is grey, without decoding it; None: it cannot be read."""
    try:
        with Image.open(path) as picture:
            return upright_size(picture), picture.mode in _GREY_MODES
    except Exception:  # `decode` reports all that cannot be read
        return None


def common_format(root: Path, files: Sequence[str], size: tuple[int, int] | None, channels: int | None) -> ImageFormat:
    """The format of the pictures, where it is not given: the size of the first; grey if all are."""
    if size is not None and channels is not None:
        return ImageFormat(size, channels)
    paths = [os.path.join(root, file) for file in files]
    for first in paths:
        if found := read_header(first):
            break
    else:
        return ImageFormat(size or (1, 1), channels or 1)
    first_size, grey = found
    if grey and channels is None:
        with ThreadPoolExecutor() as pool:
            grey = all(prefetch_map(pool, _all_grey, _blocks(paths), os.cpu_count() or 1))
    return ImageFormat(size or first_size, channels or (1 if grey else 3), size_from=None if size else first)


def _all_grey(paths: Sequence[str]) -> bool:
    return all(found is None or found[1] for found in map(read_header, paths))


def cached_images(
    root: Path,
    files: Sequence[str],
    cache: Path,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    crop: int | None = None,
) -> Tensor:
    """The pictures as one tensor, mapped from a file in `cache`, into which they are decoded if it is not there.

    Args:
        root: folder of the pictures.
        files: their paths below `root`.
        cache: folder of the decoded file.
        size: height and width; None: the size that all of them have.
        channels: 1 or 3; None: 1 if all of them are grey, else 3.
        crop: see `ImageFormat`.

    Returns:
        `(pictures, channels, height, width)` uint8, in the order of `files`.

    Raises:
        ConfigurationError: pictures of different sizes without `size`, pictures that cannot be read, or a `cache` that
            cannot be written into.
    """
    try:
        stats = [os.stat(os.path.join(root, file)) for file in files]
    except OSError as error:
        raise ConfigurationError(f"data.root: {str(error.filename)!r}: {error.strerror}") from error
    listing = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)]
    settings = json.dumps([VERSION, size, channels, crop, listing])
    path = cache / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        image_format = common_format(root, files, size, channels)._replace(crop=crop)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock = path.with_suffix(".lock")
            with _acquired(FileLock(lock), root):
                if not path.exists():
                    try:
                        decode(root, files, image_format, path)
                    except ConfigurationError:
                        path.with_suffix(".part").unlink()
                        raise
            # Now that the file is there, nobody decodes: whoever still waits finds it, with this lock or a new one.
            with suppress(OSError):  # another process has removed it, or has it open on Windows
                lock.unlink()
        except OSError as error:
            needed = len(files) * image_format.channels * math.prod(image_format.size)
            raise ConfigurationError(
                f"data.cache: the decoded pictures, {needed / 1e6:,.1f} MB, cannot be written into {str(cache)!r}: "
                f"{error.strerror or error}; set data.cache to another folder"
            ) from error
    return torch.from_numpy(map_array(path))


def _acquired(lock: FileLock, root: Path) -> AbstractContextManager[Any]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        rank_zero_info(f"data: another process is decoding {str(root)!r}; waiting for it")
        return lock.acquire()


def decode(root: Path, files: Sequence[str], image_format: ImageFormat, path: Path) -> None:
    """Writes the pictures into a new file, or completes the one that was begun.

    Raises:
        ConfigurationError: some cannot be read (the message says which, and how many), or one has another size.
    """
    start, shape = time.monotonic(), (image_format.channels, *image_format.size)
    head = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
    np.lib.format.write_array_header_1_0(head, layout)
    begin, bytes_each = len(head.getvalue()), math.prod(shape)
    part, broken = path.with_suffix(".part"), dict[str, Any]()
    with part.open("ab") as file, ThreadPoolExecutor() as pool:
        done = max(0, (file.tell() - begin) // bytes_each)
        file.truncate(begin + done * bytes_each if done else 0)
        file.write(b"" if done else head.getvalue())
        todo = _blocks(files[done:])
        rank_zero_info(f"data: {len(files) - done:,} pictures are being decoded")
        # None: no bar where the output is not a terminal
        with tqdm(total=len(files), initial=done, desc="decoding", unit=" pictures", disable=None) as bar:
            work = prefetch_map(pool, partial(_read_block, root, image_format), todo, 4 * (os.cpu_count() or 1))
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


def _blocks(files: Sequence[str]) -> list[Sequence[str]]:
    return [files[start : start + BLOCK] for start in range(0, len(files), BLOCK)]


def _read_block(root: Path, image_format: ImageFormat, files: Sequence[str]) -> list[np.ndarray | str]:
    """The pictures, or what is wrong with one that cannot be read."""
    pictures: list[np.ndarray | str] = []
    for file in files:
        try:
            pictures.append(read_image(os.path.join(root, file), image_format))
        except ConfigurationError:
            raise
        except Exception as error:  # decoders raise errors of all kinds
            pictures.append(str(error) or type(error).__name__)
    return pictures
