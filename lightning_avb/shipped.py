"""What comes with the package beside its code: configurations, and pretrained models."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
FOLDER = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())
"""A folder of the installed package; in the source tree, the top-level folder."""


def pretrained() -> dict[str, Path]:
    """`pretrained/DATA/MODEL` -> its checkpoint, which has weights and no optimizers; see `--config DATA/MODEL`."""
    found = sorted(FOLDER.glob("pretrained/*/*.ckpt"))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in found}
