"""The command `compare`: runs side by side, as a table, as JSON, or as a picture of their curves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import pictures
from ..errors import ConfigurationError
from ..history import PastRun, duration, read_run
from ..reports.base import align, json_value
from ..runs import short_names
from .outputs import writing

OF_A_RUN = ("run.yaml", "config.yaml", "metrics.csv", "checkpoints")
"""A folder with one of these is that of a run."""
NAMES = re.compile(r"version_\d+|job_.+|run_.+")
"""So is one of such a name, whatever is in it."""

PLACES = re.compile(
    r"(ckpt_path|trainer\.(default_root_dir|logger|log_every_n_steps|enable_\w+)|checkpoint\.dirpath|pictures|"
    r"progress_seconds)\b.*"
)
"""Keys that say where a run is, and what it shows, and do not change what it learns."""

ABSENT = "-"
"""In the table, for what a run does not have."""


def compare(folders: Sequence[str], output: str | None = None) -> None:
    """Prints a table of runs, and writes it, or a picture of their curves.

    Args:
        folders: of runs, or folders that contain them.
        output: a file to write as well: `.json` for the content of the table, `.png` for the curves.

    Raises:
        ConfigurationError: a folder without a run, or another kind of output.
    """
    path = None if output is None else Path(output)
    if path is not None and path.suffix.lower() not in (".json", ".png"):
        raise ConfigurationError(f"output: {output!r} does not end in .json or .png")
    runs = past_runs(folders)
    differing = differences({name: run.config for name, run in runs.items() if run.config})
    print(_table(runs, differing))
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path):
        if path.suffix.lower() == ".json":
            path.write_text(
                json.dumps([json_value(as_json(run, differing, name)) for name, run in runs.items()], indent=1)
            )
        else:
            pictures.write(curves(runs), path)
    print(path)


def past_runs(folders: Sequence[str], key: str = "compare") -> dict[str, PastRun]:
    """What runs have left, by short names; `folders` are of runs, or contain them.

    Raises:
        ConfigurationError: a folder without a run; the message begins with `key`.
    """
    paths = list(dict.fromkeys(found for folder in folders for found in run_folders(Path(folder), key)))
    return dict(zip(short_names(paths), map(read_run, paths), strict=True))


def curves(runs: Mapping[str, PastRun]) -> pictures.Picture:
    """The figures of validation over the steps.

    Raises:
        ConfigurationError: there are none.
    """
    picture = pictures.comparison({name: run.curves for name, run in runs.items()})
    if picture is None:
        raise ConfigurationError("output: no run has a figure of validation yet, there is nothing to draw")
    return picture


def run_folders(folder: Path, key: str = "compare") -> Iterator[Path]:
    """The folders of runs in a folder, or the folder itself.

    Raises:
        ConfigurationError: there is none; the message begins with `key`.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{key}: there is no folder {str(folder)!r}")
    found = list(_search(folder))
    if not found:
        raise ConfigurationError(f"{key}: there is no run in the folder {str(folder)!r}")
    yield from found


def _search(folder: Path) -> Iterator[Path]:
    if NAMES.fullmatch(folder.name) or any((folder / name).exists() for name in OF_A_RUN):
        yield folder
        return
    children = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for child in sorted(children, key=_with_numbers):
        yield from _search(child)


def _with_numbers(path: Path) -> list[Any]:
    """A key that sorts `version_10` after `version_9`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name)]


# The configuration.


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The keys that differ between configurations: key -> {name of a run: value}.

    Where the classes of a part differ, those of its options are left out that not all classes have.

    Args:
        configs: name of a run -> its configuration.
    """
    flat = {name: dict(_flatten(config)) for name, config in configs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values if not PLACES.fullmatch(key))
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        values = {name: values[key] for name, values in flat.items() if key in values}
        different = any(value != next(iter(values.values())) for value in values.values())
        if different or (len(values) < len(flat) and not _is_option_of_one_class(key, flat)):
            found[key] = values
    return found


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, plain value) of a nested configuration; the class of a part is the value of its own key."""
    if isinstance(value, Mapping) and "class_path" in value:
        yield key, str(value["class_path"]).rpartition(".")[2]
        value = value.get("init_args") or {}
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flatten(part, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        yield key, [str(part.get("class_path")).rpartition(".")[2] for part in value if isinstance(part, Mapping)]
        for number, part in enumerate(value):
            yield from _flatten(part, f"{key}.{number}")
    else:
        yield key, value


def _is_option_of_one_class(key: str, flat: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the class of a part above a key differs between the runs."""
    parts = key.split(".")
    above = [".".join(parts[:i]) for i in range(1, len(parts))]
    return any(len({repr(values.get(parent)) for values in flat.values()}) > 1 for parent in above)


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Every key without what is before its last word, or as many words as tell it from the others."""
    short: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-i:]) for i in range(1, len(parts) + 1)]
        short[key] = next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
    return short


# The table, and JSON.


def _table(runs: Mapping[str, PastRun], differing: Mapping[str, Mapping[str, Any]]) -> str:
    short = _short_keys(list(differing))
    rows = [
        [
            "run",
            *short.values(),
            "steps",
            "time",
            "figure",
            "best",
            "after",
            "last",
            "log p(x)",
            "missing, or to be noted",
        ]
    ]
    for name, run in runs.items():
        settings = [_cell(differing[key].get(name)) if name in differing[key] else ABSENT for key in differing]
        rows.append([name, *settings, *_results(run), "; ".join(_notes(run))])
    kept = [column for column in range(len(rows[0])) if any(row[column] not in ("", ABSENT) for row in rows[1:])]
    return align([[row[column] for column in kept] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return "null" if value is None else str(value)


def _results(run: PastRun) -> list[str]:
    steps = ABSENT if run.steps is None else f"{run.steps:,}"
    if run.planned is not None and run.steps != run.planned:
        steps += f" of {run.planned:,}"
    time = ABSENT if run.seconds is None else duration(run.seconds)
    figure = [ABSENT] * 4
    if run.better is not None:
        step, best = run.best
        figure = [run.better.name, f"{best:.4f}", f"{step:,}", f"{run.curves[run.better.name].values[-1]:.4f}"]
    return [steps, time, *figure, _likelihood(run)]


def _likelihood(run: PastRun) -> str:
    found = run.likelihood
    if found is None or found.value is None:
        return ABSENT
    error = "" if found.standard_error is None else f" ± {found.standard_error:.3f}"
    return f"{found.value:.3f}{error} ({found.estimator}, {found.rows:,} rows)"


def _notes(run: PastRun) -> list[str]:
    """What is missing, and what is wrong with a figure."""
    notes = [*run.missing]
    if run.better is None and any(name.startswith("val/") for name in run.curves):
        notes.append("no figure of validation says how good it is")
    if run.better is not None and run.better.is_estimate:
        notes.append(f"{run.better.name} is its critic's estimate")
    if run.likelihood is not None and run.likelihood.objection:
        notes.append(f"log p(x) is not to be trusted: {run.likelihood.objection}")
    return notes


def as_json(run: PastRun, differing: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """What the table says of the run of that name, as plain values."""
    figure = None
    if run.better is not None:
        step, best = run.best
        figure = {"name": run.better.name, "best": best, "step": step, "last": run.curves[run.better.name].values[-1]}
    return {
        "run": str(run.folder),
        "configuration": {key: values[name] for key, values in differing.items() if name in values},
        "steps": run.steps,
        "max_steps": run.planned,
        "seconds": run.seconds,
        "ended": run.ended,
        "figure": figure,
        "log_likelihood": None if run.likelihood is None else run.likelihood._asdict(),
        "notes": _notes(run),
    }
