"""`index.html` of a run: its figures, curves and pictures over time, and its configuration, in one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import yaml

from .errors import UnwritableError
from .history import PastRun, duration, read_run

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
table { border-collapse: collapse; } td, th { padding: .1rem 1rem .1rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.strip { display: flex; gap: 1rem; overflow-x: auto; padding-bottom: .5rem; }
figure { margin: 0; flex: none; } figure img { max-width: 28rem; max-height: 16rem; } img { max-width: 100%; }
label { position: relative; cursor: zoom-in; } label input { position: absolute; opacity: 0; }
input:focus-visible + img { outline: 2px solid; }
input:checked + img { max-width: none; max-height: none; cursor: zoom-out; }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } pre { background: #262626; } }
"""


def write_page(folder: Path) -> None:
    """Writes `index.html` into a run's folder, from what is there.

    Raises:
        UnwritableError: the disk is full.
    """
    path, part = folder / "index.html", folder / ".index.html.part"
    try:
        part.write_text(page(folder))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UnwritableError(f"{str(path)!r} could not be written ({error.strerror})") from error


def page(folder: Path) -> str:
    """The page of a run, with its pictures inside, so that the file can be moved alone."""
    run = read_run(folder)
    name = "/".join(folder.absolute().parts[-3:])
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style></head>',
            f"<body><h1>{escape(name)}</h1>",
            f"<p>{escape(_state(run))}</p>",
            *_figures(run),
            *_pictures(folder / "pictures"),
            *_configuration(run),
            "</body></html>",
        ]
    )


def _state(run: PastRun) -> str:
    steps = "no steps yet" if run.steps is None else f"{run.steps:,} steps"
    parts = [steps if run.planned is None else f"{steps} of {run.planned:,}"]
    if run.seconds is not None:
        parts.append(duration(run.seconds))
    if run.starts:
        parts += [f"started {run.starts[0]['started']}", *([f"ended {run.starts[-1]['ended']}"] if run.ended else [])]
    return ", ".join(parts)


def _figures(run: PastRun) -> Iterator[str]:
    """A table of the figures of validation: the last value, and the best of that by which models are compared."""
    if not (run.folder / "metrics.csv").exists():
        yield f"<p>No figures and curves: there is no metrics.csv in the folder{escape(_elsewhere(run))}.</p>"
    found = {name: curve for name, curve in run.curves.items() if name.startswith("val/")}
    if not found:
        return
    yield "<h2>Figures</h2><table><tr><th>figure</th><th>last</th><th>step</th><th>best</th><th>step</th></tr>"
    for name, curve in found.items():
        cells = [f"{curve.values[-1]:.5g}", f"{curve.steps[-1] + 1:,}"]
        if run.better and run.better.name == name:
            step, value = run.best
            cells += [f"{value:.5g}", f"{step:,}"]
        yield f"<tr><td>{escape(name)}</td>{''.join(f'<td class=number>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _elsewhere(run: PastRun) -> str:
    """Where the figures of a run without `metrics.csv` are, as far as its folder tells."""
    if any(run.folder.glob("events.out.tfevents.*")):
        return f"; they are in TensorBoard: tensorboard --logdir {run.folder}"
    logger = (run.config.get("trainer") or {}).get("logger")
    each = logger if isinstance(logger, list) else [logger]
    kinds = [str(one.get("class_path")).rpartition(".")[2] for one in each if isinstance(one, dict)]
    return f"; its loggers: {', '.join(kinds)}" if kinds else ""


def _pictures(folder: Path) -> Iterator[str]:
    """The curves, and a strip for every kind of picture, in the order of the steps."""
    if (curves := folder / "curves.png").exists():
        yield f'<h2>Curves</h2><div class="strip">{_image(curves)}</div>'
    strips: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.png")):
        named = re.fullmatch(r"(.+)_(\d+)\.png", path.name)
        if named:
            strips.setdefault(named[1], []).append((int(named[2]), path))
    for kind, files in strips.items():
        yield f'<h2>{escape(kind.replace("_", " ").capitalize())}</h2><div class="strip">'
        for step, path in files:
            yield f"<figure>{_image(path)}<figcaption>step {step + 1:,}</figcaption></figure>"
        yield "</div>"


def _image(path: Path) -> str:
    """A picture in its full size after a click, and small after another; no browser follows a link to its content."""
    content = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{content}">'
    return f'<label title="full size"><input type="checkbox">{image}</label>'


def _configuration(run: PastRun) -> Iterator[str]:
    for title, content in (("Configuration", run.config), ("Starts", run.starts)):
        if content:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
            yield f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"
