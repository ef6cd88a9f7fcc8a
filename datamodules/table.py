"""The user's own tables, as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb.distributions import TableLayout
from lightning_avb.errors import ConfigurationError

from .column_types import as_text, look_at, require_column
from .columns import Columns
from .labels import encode_labels
from .splits import Split, random_splits
from .table_files import read_table
from .tensors import TensorDataModule


class Table(TensorDataModule):
    """A table of numbers, binary values, categories and missing fields, in a file or a pandas DataFrame.

    A look at the fields decides what a column holds, and one table that is printed says so:

    * two different values: `binary`; up to ten whole numbers, or texts: `category`; others: `number`, standardised to
      mean 0 and standard deviation 1 in the training rows;
    * an empty field, NA, nan, null or None is missing;
    * constant and empty columns, and the row number that pandas writes first, are left out;
    * dates, free text, and columns in which few fields are no number are refused, all in one message.

    A row of x has the values (a category as one-hot, a missing field as 0) and a mask that says which fields are
    observed, one entry for each column in which some are missing. `TableDecoder` is a likelihood for it.

    A checkpoint keeps all that is needed to read new rows and to write rows in the table's own terms.

    Splits: random ones, the same every time.

    Args:
        path: the file: `.csv`, `.tsv`, `.txt` or `.parquet`.
        label: the column of the labels, by name or number (from 0, or negative from the end); no part of x. Labels are
            words or whole numbers and become 0..classes - 1 in sorted order; -1 or a missing field: not known.
        drop: columns to leave out.
        types: name -> `number`, `binary` or `category`, where the look is wrong.
        log: columns of positive numbers to be modelled by their logarithms; log p(x) is that of the numbers.
        missing: further texts that stand for a missing field, such as `?`.
        header: whether the first line names the columns; None: it does if it has no number.
        delimiter: between two fields; None: guessed.
        encoding: of a text file.
        val_share, test_share: shares of the rows for validation and test.
        split_seed: seed of the random splits.
        batch_size, eval_batch_size, resident, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the file cannot be used; the message names lines and columns.
    """

    def __init__(
        self,
        path: str | None = None,
        label: int | str | None = None,
        drop: Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        log: Sequence[str] = (),
        missing: Sequence[str] = (),
        header: bool | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        resident: bool | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 500,
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            resident=resident,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )
        if delimiter is not None and len(delimiter) != 1:
            raise ConfigurationError(f"data.delimiter: {delimiter!r} is not one character")
        self.path, self.label, self.drop, self.types, self.log = path, label, drop, types, log
        self.reading = {"missing": missing, "header": header, "delimiter": delimiter, "encoding": encoding}
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed
        self.frame: pd.DataFrame | None = None
        self.format: Columns | None = None
        self._found = ""

    @classmethod
    def of(cls, frame: Any, **options: Any) -> Table:
        """A table in memory: a DataFrame, or what pandas makes one of.

        A checkpoint does not hold it; it can still read new rows.
        """
        data = cls(**options)
        data.frame = pd.DataFrame(frame).rename(columns=str).reset_index(drop=True)
        return data

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self._found:
            rank_zero_info(self._found)

    def load(self) -> dict[str, Split]:
        if self.frame is not None:
            frame, said = self.frame, "in memory"
        elif self.path is None:
            raise ConfigurationError("data.path: no file is given; for a table in memory take Table.of(frame)")
        else:
            frame, words = read_table(Path(self.path), **self.reading)  # type: ignore[arg-type]
            said = f"in {self.path!r} ({words})"
        y, fields = None, frame
        if self.label is not None:
            names = list(frame.columns)
            if isinstance(self.label, int):
                counts = str(self.label) not in names and -len(names) <= self.label < len(names)
                self.label = names[self.label] if counts else str(self.label)
            require_column(self.label, names, "data.label")
            labels = frame[self.label].astype(object).where(frame[self.label].notna(), "")
            y, self.label_names = encode_labels(labels.tolist(), f"{self.label!r} {said}")
            self.classes, fields = len(self.label_names), frame.drop(columns=self.label)
        rows = self.rows_of_splits(len(frame))
        if self.format is None:
            self.format, findings = look_at(fields, rows["train"].numpy(), self.types, self.drop, self.log)
            self._found = f"data: {len(frame)} rows {said}\n{as_text(findings)}"
        self.columns = self.format.names
        x = self.format.encode(fields).to(torch.get_default_dtype())
        return {stage: Split(x, y, own) for stage, own in rows.items()}

    def rows_of_splits(self, count: int) -> dict[str, Tensor]:
        """Which of so many rows are in which split."""
        return random_splits(torch.arange(count), self.split_seed, test=self.test_share, val=self.val_share)

    def known_format(self) -> Columns:
        """What the columns hold.

        Raises:
            ConfigurationError: neither the data nor a checkpoint was read.
        """
        if self.format is None:
            raise ConfigurationError("data: the table was not read yet; call setup, or load a checkpoint")
        return self.format

    @property
    def layout(self) -> TableLayout:
        """What the entries of x are."""
        return self.known_format().layout()

    @property
    def log_jacobian(self) -> float:
        return -self.layout.log_unit.sum().item()

    def to_rows(self, x: Tensor) -> pd.DataFrame:
        """Rows of x `(rows, entries)` in the table's own terms."""
        return self.known_format().decode(x)

    def from_rows(self, rows: Any) -> Tensor:
        """x `(rows, entries)` of a DataFrame in the table's own terms; other columns are ignored.

        Raises:
            ConfigurationError: a column is not there, or has fields that it cannot hold.
        """
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
        return self.known_format().encode(frame.rename(columns=str)).to(torch.get_default_dtype())

    def from_incomplete_rows(self, rows: pd.DataFrame) -> tuple[Tensor, Tensor | None]:
        """x `(rows, entries)` of rows in which any field may be missing, and which entries are observed, like x.

        None if the mask of x tells all that is missing.
        """
        columns = self.known_format()
        x = columns.encode(rows, incomplete=True).to(torch.get_default_dtype())
        told = all(column.masked or rows[column.name].notna().all() for column in columns)
        return x, None if told else columns.observed(rows)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({"format": self.format.state()} if self.format is not None else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "format" in state and (self.format is None or self.format.state() != state["format"]):
            if self._splits is not None:
                rank_zero_info("data: columns are read as in the checkpoint, not as in the file")
            self.format, self._splits = Columns.from_state(state["format"]), None
