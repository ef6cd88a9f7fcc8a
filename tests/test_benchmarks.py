"""The benchmark for GPUs runs everywhere, two steps of everything; on a GPU it has one chance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ("limits", "precision", "throughput", "compile", "devices", "published")


def test_a_dry_run_of_the_benchmark_for_gpus(tmp_path, monkeypatch, capsys):
    options = ["--dry-run", "--folder", tmp_path, "--root", tmp_path, "--parts", *PARTS]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, BENCHMARKS / "gpu.py", *options]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["part"] for line in lines} == {*PARTS}
    assert all("error" not in line and line["torch"] for line in lines)
    assert sum("gigaflops" in line for line in lines) > 5 and sum("elbo" in line for line in lines) > 10

    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    gpu.report(lines)
    tables = capsys.readouterr().out
    assert all(f"\n{part}, " in tables for part in PARTS) and "aten::mm" in tables
    gpu.measure_all(Namespace(parts=PARTS, folder=tmp_path, root=tmp_path, dry_run=True, limit=60.0))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(lines)
