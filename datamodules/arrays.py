"""The user's own arrays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb.errors import ConfigurationError

from .array_files import ArrayFile, array_in_memory, cell_error, described, read_array, source_of
from .labels import encode_labels
from .splits import Split, random_splits
from .table_files import require_path
from .tensors import CHUNK, Binarize, TensorDataModule

Scale = Literal["auto", "none", "unit", "standardize"]


class Arrays(TensorDataModule):
    """An array `(rows, ...)` of any shape, in a `.npy` or `.npz` file or in memory. A `.csv` file is a `Table`.

    How x is scaled, unless `scale` says otherwise:

    * uint8 values are taken as 0..255 and divided by 255 (`unit`); if all are 0 or 1 they stay as they are.
    * Rows of more than one dimension stay as they are; their values must be in [0, 1].
    * All others are standardised: every column is shifted and scaled to mean 0 and standard deviation
      1 in the training split, x = (original - m) / s. Then p(original) = p(x) / prod_j s_j, and `log_jacobian` is
      - sum_j log s_j. A checkpoint keeps m, s and the names of labels, so that
      `Arrays.load_from_checkpoint(path)` restores rows without the file.

    Pictures, that is values in [0, 1] of shape `(rows, height, width)`, or with colours last, become
    `(rows, channels, height, width)`.

    Splits: random ones, the same every time.

    Args:
        path: the file. A `.npy` file that is not standardised is mapped and need not fit into memory.
        label: the column of the labels, by number (from 0, or negative from the end); in a `.npz` file also the name
            of an array. Labels are words or whole numbers and become 0..classes - 1 in sorted order; the
            number -1 or an empty field: not known.
        array: the array of a `.npz` file that is x, if there are several and none is called `x`.
        scale: `none`, `unit` or `standardize`; `auto`: as above.
        val_share, test_share: shares of the rows for validation and test.
        split_seed: seed of the random splits.
        resident, batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the file cannot be used. The message names file, row and column (in arrays counted from 0)
            of text, nan or inf, and a column that is constant in the training split.
    """

    def __init__(
        self,
        path: str | None = None,
        label: int | str | None = None,
        array: str | None = None,
        scale: Scale = "auto",
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        resident: bool | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 500,
        binarize: Binarize = "none",
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        require_path(path, "an array in memory", "Arrays.of(array)")
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            binarize=binarize,
            resident=resident,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )
        if scale not in ("auto", "none", "unit", "standardize"):
            raise ConfigurationError(f"data.scale: {scale!r} is none of 'auto', 'none', 'unit', 'standardize'")
        self.path = None if path is None else Path(path)
        self.label, self.array, self.scale = label, array, scale
        self.found: ArrayFile | None = None
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    @classmethod
    def of(cls, x: Any, y: Any = None, **options: Any) -> Arrays:
        """Rows in memory: x `(rows, ...)`, an array or a tensor, and if there are some their labels y `(rows,)`.

        A checkpoint does not hold them; it can still read new rows.
        """
        data = cls(**options)
        data.found = array_in_memory(np.asarray(x), None if y is None else np.asarray(y), data.label)
        return data

    def load(self) -> dict[str, Split]:
        found, y = self.found, None
        if found is None:
            if self.path is None:
                raise ConfigurationError("data.path: no file is given; for an array in memory take Arrays.of(array)")
            found = read_array(self.path, self.label, self.array)
        if found.labels is not None:
            what = "the labels" if self.label is None else repr(self.label)
            y, self.label_names = encode_labels(found.labels, f"{what} in {described(self.path)}")
            self.classes = len(self.label_names)
        rows = random_splits(torch.arange(len(found.x)), self.split_seed, test=self.test_share, val=self.val_share)
        x = self._scaled(found.x, rows["train"])
        return {stage: Split(x, y, own) for stage, own in rows.items()}

    @property
    def log_jacobian(self) -> float:
        return 0.0 if self.std is None else -self.std.log().sum().item()

    def restore(self, x: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return x
        return x * self.std.to(x) + self.mean.to(x)

    def from_rows(self, rows: Any) -> Tensor:
        stored = torch.as_tensor(rows)
        if self.mean is None or self.std is None:
            return _as_pictures(super().from_rows(stored))
        return ((stored.double() - self.mean) / self.std).to(torch.get_default_dtype())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({} if self.mean is None else {"mean": self.mean, "std": self.std})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "mean" not in state:
            return
        mean, std = state["mean"], state["std"]
        if self.mean is None or self.std is None or not (torch.equal(mean, self.mean) and torch.equal(std, self.std)):
            if self._splits is not None:
                rank_zero_info(
                    "data: standardised with the checkpoint's mean and standard deviation, not with those of the file"
                )
            self.mean, self.std, self._splits = mean, std, None

    def _scaled(self, x: np.ndarray, train: Tensor) -> Tensor:
        """The array as it is stored; sets `max_value`, `mean` and `std`."""
        x = x.view(np.uint8) if x.dtype == np.bool_ else x.astype(x.dtype.newbyteorder("="), copy=False)
        low, high = self._value_range(x)
        in_unit_interval = low >= 0 and high <= 1
        scale = self.scale
        if scale == "auto" and x.dtype == np.uint8:
            scale = "none" if in_unit_interval else "unit"
        elif scale == "auto":
            scale = "standardize" if x.ndim == 2 else "none"
            if scale == "none" and not in_unit_interval:
                raise ConfigurationError(
                    f"data.scale: {described(self.path)} has values from {low:g} to {high:g} in rows {x.shape[1:]}; "
                    "bring them into [0, 1], store them as uint8, or set it to 'standardize' or 'none'"
                )
        self.max_value = 255.0 if scale == "unit" else 1.0
        if self.binarize != "none" and (scale == "standardize" or low < 0 or high > self.max_value):
            raise ConfigurationError(
                f"data.binarize: {self.binarize!r} needs probabilities; {described(self.path)} has values from {low:g} "
                f"to {high:g} and the scale {scale!r}"
            )
        stored = torch.from_numpy(x if x.dtype.kind == "f" or x.dtype == np.uint8 else x.astype(np.float64))
        if scale == "standardize":
            return self._standardised(stored.double(), train)
        self.mean = self.std = None
        return _as_pictures(stored) if low >= 0 and high <= self.max_value else stored

    def _value_range(self, x: np.ndarray) -> tuple[float, float]:
        """The smallest and the largest value; 0 and 255 for bytes that are not all 0 or 1."""
        low, high = math.inf, -math.inf
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK]
            smallest, largest = float(part.min()), float(part.max())
            low, high = min(low, smallest), max(high, largest)
            if not (math.isfinite(smallest) and math.isfinite(largest)):
                row, *column = np.argwhere(~np.isfinite(part))[0].tolist()
                value = part[tuple([row, *column])]
                raise cell_error(self.path, start + row, ", ".join(map(str, column)), f"{value} is not finite")
            if x.dtype == np.uint8 and high > 1:
                return 0, 255
        return low, high

    def _standardised(self, x: Tensor, train: Tensor) -> Tensor:
        """`(x - mean) / std`, computed in double precision."""
        if self.mean is None or self.std is None:
            rows = x[train]
            constant = (rows == rows[0]).all(0).nonzero().tolist()
            if constant:
                column = constant[0]
                name = ", ".join(map(str, column))
                raise ConfigurationError(
                    f"{source_of(self.path)}, column {name!r} is {rows[0][tuple(column)].item():g} in all "
                    f"{len(rows)} training rows; a constant cannot be standardised; remove it"
                )
            self.mean, self.std = rows.mean(0), rows.std(0, correction=0)
        if self.mean.shape != x.shape[1:]:
            raise ConfigurationError(
                f"{source_of(self.path)} has rows of shape {tuple(x.shape[1:])}, the checkpoint's data had "
                f"{tuple(self.mean.shape)}"
            )
        return ((x - self.mean) / self.std).to(torch.get_default_dtype())


def _as_pictures(x: Tensor) -> Tensor:
    """`(rows, channels, height, width)` from `(rows, height, width)` or from colours last; others as they are."""
    if x.ndim == 3:
        return x.unsqueeze(1)
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3):
        return x.permute(0, 3, 1, 2)
    return x
