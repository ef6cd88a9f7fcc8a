"""A SLURM of two nodes on this machine, for the time of the checks; or the one that is there."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")

CONF = """
ClusterName=checks
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort={ports[0]}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=20
MinJobAge=3600
NodeName=node1 NodeHostname=node1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000
NodeName=node2 NodeHostname=node2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000
PartitionName=preemptible Nodes=node1,node2 Default=YES State=UP PriorityTier=2 GraceTime={grace}
PartitionName=at_once Nodes=node1,node2 State=UP PriorityTier=1
PartitionName=urgent Nodes=node1,node2 State=UP PriorityTier=10 PreemptMode=OFF
"""
GRACE = 40


class MissingError(Exception):
    """What the checks need and this machine has not, in one line."""


def install() -> None:
    """Installs Debian's SLURM, and `ip`, where they are missing. Raises MissingError if it may not."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        raise MissingError("these checks start a SLURM and make network namespaces: run them as root")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise MissingError(f"{', '.join(missing)}: missing, and there is no apt-get to install {' '.join(PACKAGES)}")
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *command], capture_output=True, text=True)
        if done.returncode != 0:
            raise MissingError(f"apt-get {command[0]} failed: {done.stderr.strip().splitlines()[-1]}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Within the block the commands of SLURM speak to a SLURM of this machine alone, whose files are in the folder."""
    for name in ("munge", "state", "spool/node1", "spool/node2"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    said = {"folder": folder, "user": getpass.getuser(), "ports": free_ports(3), "grace": GRACE}
    (folder / "slurm.conf").write_text(CONF.format(**said))
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    munge = {"key-file": "key", "socket": "socket", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    daemons = [
        ["munged", "--force", *(f"--{option}={folder}/munge/{name}" for option, name in munge.items())],
        ["slurmctld"],
        ["slurmd", "-N", "node1"],
        ["slurmd", "-N", "node2"],
    ]
    try:
        for daemon in daemons:
            subprocess.run(daemon, check=True, capture_output=True)
        _wait_for_nodes()
        yield
    finally:
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], capture_output=True)
        subprocess.run(["scontrol", "shutdown"], capture_output=True)
        time.sleep(2)
        for pid in (folder / "node1.pid", folder / "node2.pid", folder / "slurmctld.pid", folder / "munge/pid"):
            if pid.exists():
                subprocess.run(["kill", pid.read_text().strip()], capture_output=True)
        del os.environ["SLURM_CONF"]


def _wait_for_nodes() -> None:
    for _ in range(60):
        states = subprocess.run(["sinfo", "-N", "-h", "-p", "urgent", "-o", "%T"], capture_output=True, text=True)
        if states.stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.5)
    raise MissingError(f"SLURM did not start: {(states.stdout + states.stderr).strip()}")
