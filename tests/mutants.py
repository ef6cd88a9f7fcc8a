"""Does a test fail when the code is wrong? Small errors, put into the code one at a time, and the tests that see them.

python tests/mutants.py draw FILE                   a fixed random sample of mutants; needs mutmut alone
python tests/mutants.py run FILE [--only ID ...]    the tests on every mutant that was not tried yet
python tests/mutants.py report FILE                 the score

mutmut says what errors there are (an operator swapped, a number raised by one, an argument left out or None, a branch
never taken, ...) and pyproject.toml in which files. Texts, and what is raised, are left out. A mutant is in the sample
if the hash of its file, scope and statement, before and after, is among the smallest: the sample hardly changes when
other code does.

A test is tried on a mutant if it executes one of the mutant's lines; the quickest tests come first, and one that fails
is enough. The tests are collected once. Every mutant gets a fork of that process, in which the functions' code is
replaced; code that runs at import (defaults, constants, class bodies) gets a fork of a process without the package.
Results are kept beside FILE, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import functools
import gc
import hashlib
import importlib
import importlib.machinery
import inspect
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZE = 500
SECONDS = 40  # of CPU time, for the tests of one mutant
THIRD_PARTY = [
    "torch",
    "pytorch_lightning.cli",
    "pytorch_lightning.loggers",
    "torchmetrics",
    "torchvision.datasets",
    "sklearn.datasets",
    "matplotlib.pyplot",
    "scipy.stats",
    "pytest",
]

# Not of the mathematics, or with processes of their own, or long.
OTHERS = ["cli", "configurations", "data", "docs", "interruption", "networks", "package", "posterior_command"]
OTHERS += ["processes", "pyro_model", "ranks", "rough_targets", "runs"]


# --- draw -------------------------------------------------------------------------------------------------------------


def draw(file: Path) -> None:
    """The sample, as JSON: of every mutant its id, its place, its lines before and after, and the whole text."""
    from mutmut.configuration import config

    paths = [path for path in sorted(Path("lightning_avb").rglob("*.py")) if config().should_mutate(path)]
    pool = sorted((mutant for path in paths for mutant in mutants_of(path)), key=lambda mutant: mutant[0])
    sample: list[dict[str, Any]] = []
    for digest, path, lines, mutated in pool:
        before, after = path.read_text(), mutated()
        if len(sample) == SIZE:
            break
        if ast.dump(ast.parse(before)) != ast.dump(ast.parse(after)):
            diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
            entry = {"id": digest[:8], "path": str(path), "lines": lines, "diff": list(diff)[3:], "code": after}
            sample.append(entry)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(sorted(sample, key=lambda entry: (entry["path"], entry["lines"]))))
    print(f"{len(sample)} of {len(pool)} mutants in {len(paths)} files")


def mutants_of(path: Path) -> Iterator[tuple[str, Path, tuple[int, int], Callable[[], str]]]:
    """Hash, file, first and last line of the statement, and what gives the text of the mutated file."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
    from mutmut.mutation.file_mutation import MutationVisitor, get_ignored_lines
    from mutmut.mutation.mutators import mutation_operators

    class Visitor(MutationVisitor):
        """In decorated functions too: here no mutant is a copy of its function."""

        def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
            return not isinstance(node, cst.FunctionDef) and super()._skip_node_and_children(node)

    text = path.read_text()
    wrapper = MetadataWrapper(cst.parse_module(text))
    visitor = Visitor(
        [pair for pair in mutation_operators if pair[0] is not cst.BaseString],
        get_ignored_lines(str(path), text, wrapper),
    )
    module = wrapper.visit(visitor)
    parents, positions = (wrapper.resolve(provider) for provider in (ParentNodeProvider, PositionProvider))
    seen: dict[str, int] = {}
    for mutation in visitor.mutations:
        around = [mutation.original_node]
        while around[-1] in parents:
            around.append(parents[around[-1]])
        if any(isinstance(node, cst.Raise) for node in around):
            continue
        compound = (cst.BaseCompoundStatement, cst.BaseSuite, cst.Module)
        statement = around[max(0, next(place for place, node in enumerate(around) if isinstance(node, compound)) - 1)]
        after = statement.deep_replace(mutation.original_node, mutation.mutated_node)
        if not isinstance(after, cst.CSTNode):
            continue
        scope = [node.name.value for node in around if isinstance(node, (cst.FunctionDef, cst.ClassDef))]
        key = "\n".join([str(path), *scope, *(module.code_for_node(node).strip() for node in (statement, after))])
        seen[key] = seen.get(key, 0) + 1
        lines = (positions[statement].start.line, positions[statement].end.line)
        mutated = partial(
            lambda old, new: module.deep_replace(old, new).code, mutation.original_node, mutation.mutated_node
        )
        yield hashlib.sha256(f"{key}\n{seen[key]}".encode()).hexdigest(), path, lines, mutated


# --- run --------------------------------------------------------------------------------------------------------------


def forked(task: Callable[[], Any], output: Path, cpu: float, wall: float) -> tuple[str, Any]:
    """How a child ended (`ended`, `timeout`, `crash`, or `error`, one of this file), and what the task returned."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setpgid(0, 0)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu) + 1, int(cpu) + 3))
        code = 1
        try:
            answer = json.dumps(task()).encode()
            while answer:
                answer = answer[os.write(writer, answer) :]
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    os.set_blocking(reader, False)
    said, deadline, status = b"", time.monotonic() + wall, None
    while status is None:
        done, got = os.waitpid(pid, os.WNOHANG)
        if done:
            status = got
        elif time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = -1
        else:
            time.sleep(0.02)
        while True:
            try:
                piece = os.read(reader, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                break
            said += piece
    os.close(reader)
    if status == -1 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return "timeout", None
    if os.WIFEXITED(status):
        return ("ended", json.loads(said)) if os.WEXITSTATUS(status) == 0 else ("error", None)
    return "crash", None


def test_files() -> list[str]:
    others = tuple(f"test_{name}" for name in OTHERS)
    return [f"tests/{file.name}" for file in sorted(ROOT.glob("tests/test_*.py")) if not file.name.startswith(others)]


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from codes(one)


def named(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """The codes of a file by name, and by place among those of one name."""
    found: dict[tuple[str, int], types.CodeType] = {}
    for one in codes(code):
        found[one.co_qualname, sum(name == one.co_qualname for name, _ in found)] = one
    return found


def surface(code: types.CodeType) -> list[Any]:
    """What a file does when it is imported: its own code and that of class bodies, without the functions in them."""
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    constants = [repr(one) for one in code.co_consts if one not in inner]
    bodies = [surface(one) for one in inner if not one.co_flags & inspect.CO_OPTIMIZED]
    return [code.co_code, code.co_names, constants, *bodies]


class Mutant:
    """One entry of the sample, compiled."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.id, self.path, self.lines = (entry[name] for name in ("id", "path", "lines"))
        self.file = str(ROOT / self.path)
        self.before = compile(Path(self.file).read_text(), self.file, "exec")
        self.after = compile(entry["code"], self.file, "exec")
        old, new = named(self.before), named(self.after)
        self.changed = {code: new[name] for name, code in old.items() if name in new and new[name] != code}
        closures = any(code.co_freevars != other.co_freevars for code, other in self.changed.items())
        self.at_import = closures or surface(self.before) != surface(self.after)

    def harmless(self) -> Mutant:
        """The file as it is."""
        one = copy.copy(self)
        one.after = one.before
        return one

    def put_into(self, functions: Sequence[types.FunctionType]) -> None:
        """Functions that exist already get the new code."""
        for function in functions:
            if function.__code__.co_filename == self.file and function.__code__ in self.changed:
                function.__code__ = self.changed[function.__code__]

    def put_into_import(self) -> None:
        """Whoever imports the file gets the new one."""
        original = importlib.machinery.SourceFileLoader.get_code

        def get_code(loader: Any, name: str) -> Any:
            return self.after if loader.path == self.file else original(loader, name)

        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


class Tests:
    """A pytest plugin: the tests are collected and handed to `work`, which runs some of them."""

    def __init__(self, work: Callable[[Tests], None]) -> None:
        self.work = work
        self.items: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_runtestloop(self, session: Any) -> bool:
        if not session.testsfailed:
            self.items = {item.nodeid: item for item in session.items}
            self.work(self)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self.outcomes.get(report.nodeid, "passed") == "passed":
            self.outcomes[report.nodeid] = report.outcome

    def run(self, names: Sequence[str], each: Callable[[str], object] = lambda name: None) -> Iterator[tuple[str, str]]:
        """Name and outcome, one by one."""
        for name, following in zip(names, [*names[1:], None], strict=False):
            each(name)
            begun = time.process_time()
            item = self.items[name]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following and self.items[following])
            self.seconds[name] = time.process_time() - begun
            yield name, self.outcomes.get(name, "failed")

    def first_failure(self, names: Sequence[str]) -> tuple[int, str | None]:
        """How many tests were run, and the one that failed."""
        for place, (name, outcome) in enumerate(self.run(names), 1):
            if outcome == "failed":
                return place, name
        return len(names), None


def with_tests(files: Sequence[str], work: Callable[[Tests], None]) -> None:
    """Collects the tests of these files; where they cannot be imported, `work` is not called."""
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-o", "addopts=", "-m", "not slow", "-n", "0", "-p", "no:cacheprovider", "-p", "no:warnings"]
        arguments += ["-q", "--capture=no", "--no-header", "--tb=line", f"--basetemp={folder}/run"]
        if pytest.main([*arguments, *files], plugins=[Tests(work)]) == pytest.ExitCode.INTERNAL_ERROR:
            raise RuntimeError("pytest failed")


@functools.cache
def content(path: str) -> str:
    """A hash of a file as it was when this process began."""
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:12]


def unchanged(entry: dict[str, Any]) -> bool:
    return all((ROOT / path).exists() and content(path) == was for path, was in entry["contents"].items())


class Store:
    """Entries by key, one JSON object a line; the last one of a key counts."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.entries: dict[str, Any] = {entry["key"]: entry for entry in map(json.loads, lines)}

    def add(self, key: str, **entry: Any) -> None:
        self.entries[key] = {"key": key, **entry}
        with self.file.open("a") as out:
            out.write(json.dumps(self.entries[key]) + "\n")


class Runner:
    def __init__(self, file: Path) -> None:
        self.output = file.with_suffix(".out")
        self.mutants = [Mutant(entry) for entry in json.loads(file.read_text())]
        self.sources = sorted({one.path for one in self.mutants})
        self.measured, self.results = Store(file.with_suffix(".tests.jsonl")), Store(file.with_suffix(".results.jsonl"))

    def known(self, test_file: str) -> dict[str, Any]:
        """What was measured of these tests, unless they or code that they execute have changed since then."""
        entry = self.measured.entries.get(test_file)
        return entry["tests"] if entry and unchanged(entry) else {}

    def result(self, mutant: Mutant) -> dict[str, Any] | None:
        """What was found, unless its file or the test has changed since then; with a survivor, any of the tests."""
        entry = self.results.entries.get(mutant.id)
        return entry if entry and entry["result"] != "error" and unchanged(entry) else None

    def measure(self, tests: Tests) -> None:
        """Which lines of the sources every test executes, and how long it takes."""
        import coverage

        def one_file(names: Sequence[str]) -> dict[str, Any]:
            tracer = coverage.Coverage(data_file=None, include=[str(ROOT / path) for path in self.sources])
            tracer.start()
            outcomes = dict(tests.run(names, tracer.switch_context))
            tracer.stop()
            lines: dict[str, dict[str, list[int]]] = {name: {} for name in names}
            for path in self.sources:
                for line, contexts in tracer.get_data().contexts_by_lineno(str(ROOT / path)).items():
                    for name in lines.keys() & set(contexts):
                        lines[name].setdefault(path, []).append(line)
            return {name: [tests.seconds[name], outcomes[name], lines[name]] for name in names}

        by_file: dict[str, list[str]] = {}
        for name in tests.items:
            by_file.setdefault(name.split("::")[0], []).append(name)
        for file, names in by_file.items():
            if self.known(file):
                continue
            begun = time.monotonic()
            end, answer = forked(lambda names=names: one_file(names), self.output, cpu=900, wall=3600)
            print(f"{file}: {len(names)} tests, {end}, {time.monotonic() - begun:.0f} s", flush=True)
            if end == "ended":
                executed = {path for _, _, lines in answer.values() for path in lines}
                self.measured.add(file, contents={path: content(path) for path in {file, *executed}}, tests=answer)
                for name, (_, outcome, _) in answer.items():
                    if outcome == "failed":
                        print(f"  fails without a mutant: {name}")

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Those that pass without the mutant and execute one of its lines, quickest first, as far as time allows.

        What runs at import no test executes: those that execute anything of its file come first, and then all others.
        """
        wanted, found = set(range(mutant.lines[0], mutant.lines[1] + 1)), []
        for file in test_files():
            for name, (seconds, outcome, lines) in self.known(file).items():
                executed = set(lines.get(mutant.path, ()))
                if outcome == "passed" and (mutant.at_import or executed & wanted):
                    found.append((not executed, seconds, name))
        spent, names = 0.0, []
        for _, seconds, name in sorted(found):
            spent += seconds
            if not names or spent < SECONDS:
                names.append(name)
        return names

    def try_on(self, mutant: Mutant, task: Callable[[], Any]) -> None:
        begun = time.monotonic()
        end, answer = forked(task, self.output, cpu=10 + 2 * SECONDS, wall=900)
        ran, by = answer if end == "ended" else (0, end)
        result = "error" if end == "error" else "killed" if by else "survived" if ran else "not executed"
        seen = {mutant.path, *([by.split("::")[0]] if "::" in (by or "") else test_files() if not by else [])}
        self.results.add(mutant.id, result=result, by=by, ran=ran, contents={path: content(path) for path in seen})
        seconds = time.monotonic() - begun
        print(f"{mutant.id} {mutant.path}:{mutant.lines[0]} {result} {by or ''} ({ran}, {seconds:.1f} s)", flush=True)

    def warm(self, due: Sequence[Mutant], tests: Tests) -> None:
        """Mutants of functions: everything is imported, and every mutant has a fork of this process."""
        self.measure(tests)
        functions = [one for one in gc.get_objects() if isinstance(one, types.FunctionType)]
        functions = [one for one in functions if one.__code__.co_filename.startswith(str(ROOT / "lightning_avb"))]
        gc.freeze()

        def task(mutant: Mutant, names: Sequence[str]) -> tuple[int, str | None]:
            mutant.put_into(functions)
            return tests.first_failure(names)

        for mutant in due:
            if not mutant.at_import:
                self.try_on(
                    mutant, partial(task, mutant, [name for name in self.tests_of(mutant) if name in tests.items])
                )

    def cold(self, mutant: Mutant) -> tuple[int, str | None]:
        """A mutant of what runs at import: this process has not imported the package."""
        mutant.put_into_import()
        names = self.tests_of(mutant)
        answer: tuple[int, str | None] = (1, "import")

        def work(tests: Tests) -> None:
            nonlocal answer
            answer = tests.first_failure([name for name in names if name in tests.items])

        with_tests(sorted({name.split("::")[0] for name in names}), work)
        return answer

    def run(self, only: tuple[str, ...] = ()) -> None:
        due = [one for one in self.mutants if self.result(one) is None]
        if only:
            due = [one for one in self.mutants if one.path.startswith(only) or one.id in only]
        in_child(lambda: with_tests(test_files(), partial(self.warm, due)))
        self.measured = Store(self.measured.file)
        at_import = [mutant for mutant in due if mutant.at_import]
        for mutant in at_import[:1]:
            end, answer = forked(partial(self.cold, mutant.harmless()), self.output, cpu=10 + 2 * SECONDS, wall=900)
            if end != "ended" or answer[1]:
                sys.exit(f"without a mutant fails: {answer}; see {self.output}")
        for mutant in at_import:
            self.try_on(mutant, partial(self.cold, mutant))


def in_child(task: Callable[[], object]) -> None:
    """What the task imports is not left in this process."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            task()
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    if os.waitpid(pid, 0)[1]:
        sys.exit("no mutant was tried")


def report(runner: Runner) -> int:
    """The score. A survivor that docs/history.md names by its id is explained there."""
    runner.results = Store(runner.results.file)
    explained = (ROOT / "docs" / "history.md").read_text()
    results = {one.id: entry["result"] for one in runner.mutants if (entry := runner.result(one)) is not None}
    left = [one for one in runner.mutants if results.get(one.id, "killed") != "killed"]
    equivalent = [one for one in left if one.id in explained]
    killed, tried = len(results) - len(left), len(results)
    for path in runner.sources:
        here = [one.id for one in runner.mutants if one.path == path and one.id in results]
        print(f"{path:45} {sum(results[name] == 'killed' for name in here):4} of {len(here)}")
    print(f"{killed} of {tried} killed; {len(equivalent)} survivors are explained in docs/history.md")
    for one in left:
        if one not in equivalent:
            print(f"{one.id} {one.path}:{one.lines[0]} {results[one.id]}")
    return int(killed < 0.95 * (tried - len(equivalent)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "run", "report"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="ids, or how paths begin: these alone, tried or not")
    given = parser.parse_args()
    os.chdir(ROOT)
    if given.what == "draw":
        draw(given.file)
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    runner = Runner(given.file.resolve())
    if given.what == "run":
        for name in THIRD_PARTY:
            importlib.import_module(name)
        runner.run(tuple(given.only))
    return report(runner)


if __name__ == "__main__":
    sys.exit(main())
