"""The user's own tables, as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb.distributions import TableLayout
from lightning_avb.errors import ConfigurationError

from .column_types import as_text, look_at
from .columns import Columns
from .labels import encode_labels
from .names import LINE, Names, counted, listed, names_of, require_column, stripped, with_names
from .splits import Split, random_splits
from .table_files import read_table, require_path
from .tensors import TensorDataModule


class Table(TensorDataModule):
    """A table of numbers, binary values, categories and missing fields, in a file or a pandas DataFrame.

    A look at the fields decides what a column holds, and one table that is printed says so:

    * two different values: `binary`; up to ten whole numbers, or texts: `category`; others: `number`, standardised to
      mean 0 and standard deviation 1 in the training rows;
    * an empty field, NA, nan, null or None is missing;
    * constant and empty columns, and a row's number or name in a column without a name of its own, are left out;
    * dates, free text, and columns in which few fields are no number are refused, all in one message.

    A row of x has the values (a category as one-hot, a missing field as 0) and a mask that says which fields are
    observed, one entry for each column in which some are missing. `TableDecoder` is a likelihood for it.

    A checkpoint keeps all that is needed to read new rows and to write rows in the table's own terms.

    Splits: random ones, the same every time.

    Args:
        path: the file: `.csv`, `.tsv`, `.txt` or `.parquet`.
        label: the column of the labels, by name or number (from 0, or negative from the end); no part of x. Labels are
            words or whole numbers and become 0..classes - 1 in sorted order; -1 or a missing field: not known.
        columns: the only columns to use, beside the label; None: all.
        drop: columns to leave out.
        types: name -> `number`, `binary` or `category`, where the look is wrong.
        log: columns of positive numbers to be modelled by their logarithms; log p(x) is that of the numbers.
        missing: further texts that stand for a missing field, such as `?`.
        header: whether the first line names the columns; None: guessed, from what stands below it.
        delimiter: between two fields; None: guessed.
        encoding: of a text file that does not begin with a mark of its encoding.
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
        columns: Names | None = None,
        drop: Names = (),
        types: Mapping[str, str] | None = None,
        log: Names = (),
        missing: Names = (),
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
        require_path(path, "a table in memory", "Table.of(frame)")
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            resident=resident,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )
        if delimiter is not None and len(delimiter) != 1:
            raise ConfigurationError(f"data.delimiter: {delimiter!r} is not one character")
        self.path, self.label = path, stripped(label) if isinstance(label, str) else label
        self.looking = {
            "columns": None if columns is None else names_of(columns),
            "drop": names_of(drop),
            "types": {stripped(name): kind for name, kind in (types or {}).items()},
            "log": names_of(log),
        }
        self.reading: dict[str, Any] = {
            "missing": names_of(missing),
            "header": header,
            "delimiter": delimiter,
            "encoding": encoding,
        }
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed
        self.frame: pd.DataFrame | None = None
        self.format: Columns | None = None
        self.names: list[str] = []
        self._lines: pd.Index | None = None
        self._found = ""

    @classmethod
    def of(cls, frame: Any, **options: Any) -> Table:
        """A table in memory: a DataFrame, or what pandas makes one of.

        A checkpoint does not hold it; it can still read new rows.
        """
        data = cls(**options)
        data.frame = with_names(pd.DataFrame(frame)).reset_index(drop=True)
        return data

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self._found:
            rank_zero_info(self._found)

    def load(self) -> dict[str, Split]:
        frame, said, notes = self._read()
        self.names, self._lines = list(frame.columns), frame.index if frame.index.name == LINE else None
        y, fields = None, frame
        if self.label is not None:
            y, fields = self._labels(frame, said), frame.drop(columns=self.label)
        rows = self.rows_of_splits(len(frame))
        if self.format is None:
            self.format, findings = look_at(fields, rows["train"].numpy(), **self._looking())
            self._found = "\n".join([f"data: {counted(len(frame), 'row')} {said}", as_text(findings), *notes])
        self.columns = self.format.names
        x = self.format.encode(fields).to(torch.get_default_dtype())
        return {stage: Split(x, y, own) for stage, own in rows.items()}

    def _read(self) -> tuple[pd.DataFrame, str, list[str]]:
        """The table, where it is, and what to say of it."""
        if self.frame is not None:
            return self.frame, "in memory", []
        if self.path is None:
            raise ConfigurationError("data.path: no file is given; for a table in memory take Table.of(frame)")
        known = self.format.names if self.format else ()
        frame, said, notes = read_table(Path(self.path), **self.reading, known=known)
        return frame, f"in {str(self.path)!r} ({said})", notes

    def _labels(self, frame: pd.DataFrame, said: str) -> Tensor:
        """Sets the name of the label's column, and the names of the labels."""
        if isinstance(self.label, int):
            counts = str(self.label) not in self.names and -len(self.names) <= self.label < len(self.names)
            self.label = self.names[self.label] if counts else str(self.label)
        require_column(str(self.label), self.names, "data.label")
        labels = frame[self.label].astype(object).where(frame[self.label].notna(), "")
        known = self.checkpoint_state.get("label_names")
        y, self.label_names = encode_labels(labels.tolist(), f"{self.label!r} {said}", known)
        self.classes = len(self.label_names)
        return y

    def _looking(self) -> dict[str, Any]:
        """How to look at the columns, the label not among them."""
        columns = self.looking["columns"]
        return {**self.looking, "columns": columns and [name for name in columns if name != self.label]}

    def place(self, stage: str, row: int) -> str:
        return super().place(stage, row) if self._lines is None else f"{LINE} {self._lines[row]}"

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

    def as_frame(self, rows: Any) -> pd.DataFrame:
        """Rows with the names of the table: a DataFrame, or an array with its columns in order, with or without labels.

        Raises:
            ConfigurationError: an array with another number of columns.
        """
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
        if isinstance(rows, pd.DataFrame) or not isinstance(frame.columns, pd.RangeIndex):
            return with_names(frame, "rows")
        others = [name for name in self.names if name != self.label]
        for names in (self.names, others, self.known_format().names):
            if len(names) == len(frame.columns):
                return frame.set_axis(names, axis=1)
        columns = counted(len(frame.columns), "column")
        raise ConfigurationError(f"rows: an array with {columns}, and those of the table are {listed(self.names)}")

    def from_rows(self, rows: Any) -> Tensor:
        """x `(rows, entries)` of rows in the table's own terms, see `as_frame`; other columns are ignored.

        Raises:
            ConfigurationError: a column is not there; or fields that columns cannot hold, all in one message.
        """
        return self.known_format().encode(self.as_frame(rows)).to(torch.get_default_dtype())

    def from_incomplete_rows(self, rows: Any) -> tuple[Tensor, Tensor | None]:
        """x `(rows, entries)` of rows in which any field may be missing, and which entries are observed, like x.

        None if the mask of x tells all that is missing.
        """
        columns, frame = self.known_format(), self.as_frame(rows)
        x = columns.encode(frame, incomplete=True).to(torch.get_default_dtype())
        told = all(column.masked or frame[column.name].notna().all() for column in columns)
        return x, None if told else columns.observed(frame)

    def state_dict(self) -> dict[str, Any]:
        read = {} if self.format is None else {"format": self.format.state(), "names": self.names, "label": self.label}
        return {**super().state_dict(), **read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "format" in state and (self.format is None or self.format.state() != state["format"]):
            if self._splits is not None:
                rank_zero_info("data: columns are read as in the checkpoint, not as in the file")
            self.format, self._splits = Columns.from_state(state["format"]), None
            self.names = state.get("names", self.format.names)
        if isinstance(self.label, int):
            self.label = state.get("label", self.label)
        super().load_state_dict(state)
