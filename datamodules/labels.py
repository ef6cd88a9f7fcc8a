"""Labels of rows: which values are allowed, and which of them a model sees in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_avb.errors import ConfigurationError

from .loaders import seeded_permutation


def check_labels(y: Tensor, classes: int, stage: str, rows: Tensor | None = None) -> None:
    """Checks the labels of a split.

    Args:
        y: `(rows,)`, the labels.
        classes: the number of labels.
        stage: the name of the split, for the message.
        rows: `(rows,)`, the numbers of the rows in the data set, for the message; None: 0, 1, 2, ...

    Raises:
        ConfigurationError: a label is none of -1..classes - 1.
    """
    wrong = ((y < -1) | (y >= classes)).nonzero()
    if len(wrong):
        row = int(wrong[0] if rows is None else rows[wrong[0]])
        raise ConfigurationError(
            f"data: row {row} ({stage}) has the label {int(y[wrong[0]])}; labels are 0 to {classes - 1}, and -1 where "
            "they are not known"
        )


def keep_labels(y: Tensor | None, count: int, classes: int | None, names: Sequence[str] | None = None) -> Tensor:
    """`(rows,)`: `count` of the labels, as evenly over the classes as can be, and -1 elsewhere.

    The rows are taken in an order that is a function of the run's seed: the first of each class, the second of each
    class, and so on.

    Args:
        y: `(rows,)`, the labels, -1 where they are not known; None: there are none.
        count: how many are kept.
        classes: the number of labels.
        names: what the labels stand for, for the message.

    Raises:
        ConfigurationError: there are not that many labels, or fewer than one per class are asked for.
    """
    if y is None or classes is None:
        raise ConfigurationError(f"data.labels: {count}, and the data has no labels")
    order = seeded_permutation(len(y), "labels")
    order = order[y[order] >= 0]
    counts = y[order].bincount(minlength=classes)
    share, rarest = count // classes, int(counts.argmin())
    if share == 0:
        raise ConfigurationError(f"data.labels: {count} are fewer than the {classes} classes")
    if count > len(order):
        raise ConfigurationError(f"data.labels: {count} are more than the {len(order)} training rows with a label")
    if share > counts[rarest]:
        name = rarest if names is None else repr(names[rarest])
        raise ConfigurationError(
            f"data.labels: {count} are {share} of each class, and of {name} there are only {counts[rarest]} training "
            "rows with a label"
        )
    rank_in_class = torch.empty_like(order)
    rank_in_class[y[order].argsort(stable=True)] = torch.cat([torch.arange(size) for size in counts.tolist()])
    kept = order[rank_in_class.argsort(stable=True)[:count]]
    return torch.full_like(y, -1).index_copy(0, kept, y[kept])


def is_number(field: Any) -> bool:
    """Whether it is a number, or text that can be read as one."""
    try:
        float(field)
    except (TypeError, ValueError):
        return False
    return True


def encode_labels(labels: list[Any], source: str, known: Sequence[str] | None = None) -> tuple[Tensor, list[str]]:
    """Labels as 0..k - 1 in sorted order, `(rows,)` int64, and what each number stands for.

    If all labels can be read as numbers they are sorted as numbers, otherwise as text. An empty text, and -1 among
    numbers, is a label that is not known, and becomes -1.

    Args:
        labels: one for each row.
        source: where they come from, for the message.
        known: what the numbers stand for, if a checkpoint says so.

    Raises:
        ConfigurationError: numbers that are not whole, which are quantities and no labels; fewer than two classes
            where some labels are not known; a label that the checkpoint does not have.
    """
    values: list[Any] = [str(label) for label in labels]
    if all(is_number(label) for label in labels if label != ""):
        fraction = next((label for label in labels if label != "" and not float(label).is_integer()), None)
        if fraction is not None:
            raise ConfigurationError(
                f"data.label: {source} has {fraction}, a quantity; labels are words or whole numbers"
            )
        values = [-1 if label == "" else int(float(label)) for label in labels]
    names = sorted(set(values) - {"", -1})
    if known is not None:
        unseen = [name for name in names if str(name) not in known]
        if unseen:
            raise ConfigurationError(
                f"data.label: {source} has {', '.join(map(repr, unseen))}; the labels of the checkpoint are "
                f"{', '.join(known)}"
            )
    elif len(names) < min(2, len(set(values))):
        raise ConfigurationError(
            f"data.label: {source} has too few classes: {', '.join(map(repr, names)) or 'none'}; -1 or an empty field "
            "is a label that is not known"
        )
    stand_for = list(known) if known is not None else [str(name) for name in names]
    numbers = {name: number for number, name in enumerate(stand_for)}
    return torch.tensor([numbers.get(str(value), -1) for value in values]), stand_for
