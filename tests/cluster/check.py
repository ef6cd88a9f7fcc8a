"""Runs the scripts of docs/cluster.md, and what may go wrong with them, on one machine: `make test-cluster`.

python tests/cluster/check.py [NAME ...]

Prints one line per check; exits with 1 if one failed, with 2 if something is missing on this machine. NAME selects
checks. The CPU takes the place of GPUs, and every node has two processes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from slurm import MissingError, free_ports, install, slurm

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).with_name("lightning-avb"))
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
STEPS = 150
SHORT = f"""
trainer:
  max_steps: {STEPS}
  check_val_every_n_epoch: 10
  enable_progress_bar: false
  callbacks+: {{class_path: fingerprint.Fingerprint, init_args: {{pause: PAUSE}}}}
pictures: {{every_n_epochs: 0}}
checkpoint: {{every_n_train_steps: 20}}
"""
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
CHECKS: dict[str, Callable[[], str]] = {}
Prints = list[tuple[int, int, str]]
"""(rank, step, hash) of every line that `Fingerprint` printed."""


def check(function: Callable[[], str]) -> Callable[[], str]:
    CHECKS[function.__name__] = function
    return function


# What the checks are made of. Every check runs in a folder of its own, which is the current one.


def config(pause: float = 0.0) -> str:
    path = Path(f"short_{pause}.yaml").absolute()
    path.write_text(SHORT.replace("PAUSE", str(pause)))
    return str(path)


def fit(*options: str, pause: float = 0.0) -> list[str]:
    files = (f"--config={ROOT}/configs/digits/avb_si.yaml", f"--config={config(pause)}")
    return ["fit", *files, "--trainer.accelerator=cpu", "--trainer.devices=2", *options]


def script(name: str, pause: float = 0.0) -> str:
    """A script of docs/cluster.md, small enough for this machine. Returns the path of a file."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.S)
    text = next(block for block in blocks if f"# {name}\n" in block)
    text = re.sub(r"#SBATCH --(gpus-per-node|time)=.*\n", "", text)
    for theirs, ours in (
        (r"--ntasks-per-node=4", "--ntasks-per-node=2"),
        (r"--cpus-per-task=\d+", "--cpus-per-task=1"),
        (r"--nproc-per-node=4", "--nproc-per-node=2"),
        (r"--trainer.devices 4", "--trainer.devices 2"),
        (r"--checkpoint.every_n_train_steps \d+", "--checkpoint.every_n_train_steps 20"),
        (r"--array=0-4", "--array=0-1"),
        (r"OMP_NUM_THREADS=\S+", "OMP_NUM_THREADS=1"),
        (r"--config mnist/", f"--config {ROOT}/configs/digits/"),
        (r"--config trainer/", f"--config {ROOT}/configs/trainer/"),
        (r"--trainer.accelerator gpu", f"--config {config(pause)} --trainer.accelerator cpu"),
        (r"\"\$HEAD:29500\"", f"localhost:{free_ports(1)[0]}"),
    ):
        text = re.sub(theirs, ours, text)
    Path(name).write_text(text)
    return name


def run(*command: str, code: int = 0, seconds: float = 300, **variables: str) -> str:
    """What a command printed; it must end with that code."""
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, timeout=seconds, env=os.environ | variables, **both)
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}: {_end(done.stdout)}"
    return done.stdout


def _end(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])


def submit(*options: str) -> str:
    return run("sbatch", "--parsable", *options).strip()


def field(job: str, name: str) -> str:
    return re.findall(rf"\b{name}=(\S*)", run("scontrol", "show", "job", job))[0]


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def ended(job: str, state: str = "COMPLETED", seconds: float = 300) -> str:
    """Waits for the end of a job, which must be that one. Returns what it printed."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
    wait_for(f"job {job}", lambda: field(job, "JobState") in over, seconds)
    printed = Path(field(job, "StdOut")).read_text()
    found = field(job, "JobState")
    assert found == state, f"job {job} {found}, expected {state}: {_end(printed)}"
    return printed


def prints(text: str) -> Prints:
    return [(int(r), int(s), h) for r, s, h in re.findall(r"fingerprint (\d+) (\d+) ([0-9a-f]{16})", text)]


def agreed(text: str, ranks: int) -> str:
    """The hash that so many ranks have at the end of the run."""
    found = prints(text)
    assert sorted(rank for rank, _, _ in found) == list(range(ranks)), f"ranks {found}: {_end(text)}"
    assert {step for _, step, _ in found} == {STEPS}, found
    assert len({digest for _, _, digest in found}) == 1, f"the ranks differ: {found}"
    return found[0][2]


def same(text: str) -> str:
    """Asserts that two ranks end with the bits of a run that was left alone."""
    digest = agreed(text, 2)
    assert digest == whole(), f"{digest}, the run that was left alone has {whole()}"
    return f"the bits of a run that was left alone, {digest}"


@cache
def whole() -> str:
    """The hash of a run of two processes that Lightning's own launcher started and nobody interrupted."""
    return agreed(run(COMMAND, *fit("--trainer.default_root_dir=whole")), 2)


def has_checkpoint() -> bool:
    return any(Path().glob("runs/**/last.ckpt"))


def errors(text: str) -> set[str]:
    """The error lines; there must be no traceback but torchrun's own."""
    assert not re.search(r'File ".*(lightning_avb|pytorch_lightning)/', text), _end(text)
    return set(re.findall(r"^error: (.*)", text, re.M))


@contextmanager
def started(*command: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs beside; what it prints goes to `out.txt`. Its processes are gone at the end of the block."""
    with Path("out.txt").open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | variables, start_new_session=True
        )
    try:
        yield process
    finally:
        for pid in [*_below(process.pid), process.pid]:
            _kill(pid)
        process.wait()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """All descendants of a process."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [one for child in map(int, children) for one in (child, *_below(child))]


def workers(pid: int) -> list[int]:
    """The processes below one that train."""
    said = [(one, Path(f"/proc/{one}/cmdline").read_bytes()) for one in _below(pid)]
    return [one for one, line in said if b"lightning-avb" in line and b"torchrun" not in line]


# SLURM.


@check
def srun() -> str:
    """One node, two tasks."""
    job = submit(script("one_node.sh"))
    said = same(ended(job))
    assert Path(f"runs/digits/avb_si/job_{job}/metrics.csv").exists()
    return said


@check
def srun_nodes() -> str:
    """Two nodes, two tasks each."""
    return f"four ranks agree, {agreed(ended(submit(script('several_nodes.sh')), 'COMPLETED'), 4)}"


@check
def array() -> str:
    """Two seeds."""
    job = submit(script("seeds.sh"))
    wait_for("both jobs", lambda: not run("squeue", "-h", "-j", job).strip())
    found = {prints(path.read_text())[0][2] for path in Path().glob("avb-*.out")}
    assert len(found) == 2, f"seeds give the same weights: {found}"
    assert len(list(Path().glob("runs/digits/avb_si/job_*/checkpoints/last.ckpt"))) == 2
    return f"two runs in two folders, {' and '.join(sorted(found))}"


@check
def limit() -> str:
    """SLURM's signal before the time limit: saved, requeued, gone on."""
    job = submit("--time=60", "--signal=USR1@60", script("one_node.sh", pause=0.45))
    wait_for("a checkpoint", has_checkpoint)
    run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    wait_for("the requeue", lambda: field(job, "Restarts") == "1")
    run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    return _requeued(job)


def _preempted(*options: str) -> str:
    job = submit(*options, script("preemptible.sh", pause=0.2))
    wait_for("a checkpoint", has_checkpoint)
    urgent = submit("--partition=urgent", "--nodes=2", "--exclusive", "--output=urgent.txt", "--wrap=sleep 5")
    begun = time.monotonic()
    wait_for("the urgent job", lambda: field(urgent, "JobState") == "COMPLETED")
    return f"the urgent job was over after {time.monotonic() - begun:.0f} s; {_requeued(job)}"


@check
def preemption() -> str:
    """An urgent job takes the nodes away; the run has 40 seconds, stops and requeues itself."""
    return _preempted()


@check
def preemption_at_once() -> str:
    """The same without a grace time: SLURM requeues the job and gives it the seconds of KillWait."""
    return _preempted("--partition=at_once")


def _requeued(job: str) -> str:
    printed = ended(job)
    restarts = int(field(job, "Restarts"))
    assert restarts > 0, "the job was never requeued"
    assert "stopped by" in printed, f"the run was not stopped behind a batch: {_end(printed)}"
    folder = Path(f"runs/digits/avb_si/job_{job}")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "one folder over all starts"
    steps = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    column = steps[0].index("step")
    numbers = [int(row[column]) for row in steps[1:]]
    assert numbers == sorted(numbers) and numbers[-1] == STEPS - 1, f"steps of metrics.csv: {numbers}"
    return f"{restarts} requeue, {same(printed)}"


@check
def no_ntasks_per_node() -> str:
    said = run("srun", "-n2", COMMAND, *fit(), code=2)
    (line,) = errors(said)
    assert "--ntasks-per-node=2" in line, line
    return line


@check
def no_srun() -> str:
    wrapped = f"--wrap={COMMAND} {' '.join(fit())}"
    (line,) = errors(ended(submit("--ntasks-per-node=2", "--output=out.txt", wrapped), "FAILED"))
    assert "srun lightning-avb" in line, line
    return line


@check
def other_devices() -> str:
    (line,) = errors(run("srun", "-n2", "--ntasks-per-node=2", COMMAND, *fit("--trainer.devices=1"), code=2))
    assert "trainer.devices: 1" in line, line
    return line


def _task(job: str, rank: int) -> int:
    """The process that is this task of a job."""
    said = {f"SLURM_JOB_ID={job}", f"SLURM_PROCID={rank}", "SLURM_STEP_ID=0"}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if said <= set((folder / "environ").read_bytes().decode(errors="replace").split("\0")):
                return int(folder.name)
    raise AssertionError(f"job {job} has no task {rank}")


@check
def killed_task() -> str:
    """One of two tasks is killed: srun ends the other, and the job goes on where it was when it is submitted again."""
    job = submit(script("one_node.sh", pause=0.2))
    wait_for("a checkpoint", has_checkpoint)
    _kill(_task(job, 1))
    begun = time.monotonic()
    ended(job, "FAILED", 60)
    seconds = time.monotonic() - begun
    run("scontrol", "requeue", job)
    return f"over after {seconds:.0f} s; requeued by hand {same(ended(job))}"


# torchrun.


@check
def torchrun() -> str:
    return same(run("bash", script("torchrun.sh")))


@check
def torchrun_nodes() -> str:
    """One torchrun a node of SLURM."""
    return f"four ranks agree, {agreed(ended(submit(script('torchrun_nodes.sh'))), 4)}"


@check
def torchrun_restarts_refused() -> str:
    (line,) = errors(run(TORCHRUN, "--nproc-per-node=2", "--max-restarts=1", COMMAND, *fit(), code=1))
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in line, line
    return line


def _elastic(rank: int) -> str:
    with started("bash", script("elastic.sh", pause=0.2)) as process:
        wait_for("a checkpoint", has_checkpoint)
        _kill(workers(process.pid)[rank])
        code = process.wait(180)
    printed = Path("out.txt").read_text()
    assert code == 0, f"exit code {code}: {_end(printed)}"
    assert "it goes on from" in printed
    assert len(list(Path().glob("runs/digits/avb_si/run_*"))) == 1, "one folder over all starts"
    return same(printed)


@check
def elastic_first() -> str:
    """The first worker is killed behind a checkpoint; torchrun starts both again."""
    return _elastic(0)


@check
def elastic_second() -> str:
    return _elastic(1)


@contextmanager
def namespaces() -> Iterator[list[str]]:
    """Two network namespaces with a cable between them: 10.213.77.1 and .2 at the interface `cable`."""
    names = [f"avb-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            run("ip", "-n", name, "address", "add", f"10.213.77.{number}/24", "dev", "cable")
            run("ip", "-n", name, "link", "set", "cable", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@contextmanager
def two_nodes(*options: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A torchrun with one process in each of two namespaces."""
    with namespaces() as names:
        commands = [
            [
                *("ip", "netns", "exec", name, TORCHRUN, "--nnodes=2", "--nproc-per-node=1"),
                *("--rdzv-backend=c10d", "--rdzv-endpoint=10.213.77.1:29500", f"--local-addr=10.213.77.{number}"),
                f"--rdzv-conf=is_host={number == 1}",  # the machine's own name leads to neither address
                *options,
            ]
            for number, name in enumerate(names, 1)
        ]
        variables = {"GLOO_SOCKET_IFNAME": "cable", **OWN_STORE}
        with started(*commands[0], **variables) as first, started(*commands[1], **variables) as second:
            yield [first, second]


@check
def two_networks() -> str:
    """Two torchruns as two nodes, each in a network of its own."""
    with two_nodes(COMMAND, *fit("--trainer.devices=1", "--trainer.num_nodes=2")) as processes:
        codes = [process.wait(180) for process in processes]
    printed = Path("out.txt").read_text()
    assert codes == [0, 0], f"exit codes {codes}: {_end(printed)}"
    return same(printed)


@check
def two_networks_elastic() -> str:
    """The second node's process is killed; both nodes start theirs again."""
    again = ("--trainer.logger.init_args.version=0", "--ckpt_path=last")
    options = fit("--trainer.devices=1", "--trainer.num_nodes=2", *again, pause=0.1)
    with two_nodes("--max-restarts=2", COMMAND, *options) as processes:
        wait_for("a checkpoint", has_checkpoint)
        _kill(workers(processes[1].pid)[0])
        codes = [process.wait(180) for process in processes]
    printed = Path("out.txt").read_text()
    assert codes == [0, 0], f"exit codes {codes}: {_end(printed)}"
    return same(printed)


# Lightning's own launcher.


@check
def killed_worker() -> str:
    """One of two processes is killed: the other ends soon, in one line, and the run goes on from its checkpoint."""
    again = fit("--trainer.logger.init_args.version=0", "--ckpt_path=last", pause=0.1)
    with started(COMMAND, *again) as process:
        wait_for("a checkpoint", has_checkpoint)
        _kill(workers(process.pid)[0])
        begun = time.monotonic()
        code = process.wait(60)
        seconds = time.monotonic() - begun
    printed = Path("out.txt").read_text()
    assert code != 0, "exit code 0"
    (line,) = errors(printed)
    return f"over after {seconds:.0f} s with {code}: {line}; gone on with {same(run(COMMAND, *again))}"


def main() -> None:
    names = sys.argv[1:] or list(CHECKS)
    unknown = set(names) - set(CHECKS)
    if unknown:
        sys.exit(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=f"{ROOT}:{Path(__file__).parent}", MASTER_ADDR="127.0.0.1")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which cleans up
    folder = Path(tempfile.mkdtemp(prefix="avb-cluster-"))
    failed = 0
    try:
        install()
        with slurm(folder / "slurm"):
            for name in names:
                (folder / name).mkdir()
                os.chdir(folder / name)
                begun = time.monotonic()
                try:
                    said = f"ok    {name}: {CHECKS[name]()}"
                except (AssertionError, subprocess.TimeoutExpired, ValueError) as error:
                    said, failed = f"FAIL  {name}: {error}", failed + 1
                print(f"{said} ({time.monotonic() - begun:.0f} s)", flush=True)
    except MissingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
