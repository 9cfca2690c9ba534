"""A throw-away Slurm cluster: this machine is its one node, and nothing but itself can reach it.

The GPUs of the node are made up: Slurm counts them out to jobs, but no driver stands behind them.
There is no accounting database, hence no ``sacct``; ``scontrol show jobs`` tells all about jobs,
finished ones too. To try something by hand, run a command inside a cluster of its own:

    python tests/slurm/cluster.py bash
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
SEARCH = f"{os.environ['PATH']}:/usr/sbin"

# Memory is not enforced, so the node may claim any; the jobs below ask for what real ones need.
# `MinJobAge` keeps finished jobs in sight. A job over its time limit is killed two seconds later.
SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
MinJobAge=3600
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000000 Gres=gpu:h100:{gpus}
PartitionName=normal Nodes={host} Default=YES MaxTime=7-0
PartitionName=accelerated Nodes={host} MaxTime=7-0
"""


class Unavailable(Exception):
    """Why there can be no cluster here."""


def install() -> None:
    """Install Slurm and munge from the distribution, without starting their services.

    Raises:
        Unavailable: if they are missing and cannot be installed, or cannot be started.
    """
    if os.geteuid() != 0:
        raise Unavailable("only root can install and start a Slurm cluster")
    missing = [package for program, package in PACKAGES.items() if not _find(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Unavailable(f"{', '.join(missing)}: not installed; installing needs apt-get")
    policy = Path("/usr/sbin/policy-rc.d")
    with ExitStack() as stack:
        if not policy.exists():
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            stack.callback(policy.unlink)
        apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(
                [*apt, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
    if done.returncode != 0:
        raise Unavailable(f"apt-get could not install {', '.join(missing)}: {done.stderr.strip()}")


@contextmanager
def cluster(cpus: int = 3, gpus: int = 3) -> Iterator[dict[str, str]]:
    """Start a cluster, and at the end stop it with all of its jobs.

    Args:
        cpus: that the node claims to have.
        gpus: likewise, called h100; the partition ``accelerated`` is meant for those who use them.

    Yields:
        The environment in which Slurm's commands and Snakemake reach it.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)  # munge's socket is for everybody
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))

        controller, node = _free_ports(2)
        host = socket.gethostname().partition(".")[0]
        fields = {"folder": folder, "host": host, "cpus": cpus, "gpus": gpus}
        conf = folder / "slurm.conf"
        conf.write_text(SLURM.format(**fields, controller=controller, node=node))
        # A GPU must be a character device for Slurm to tell the job which one is its own.
        devices = [folder / f"gpu{number}" for number in range(gpus)]
        for device in devices:
            device.symlink_to("/dev/null")
        lines = [f"NodeName={host} Name=gpu Type=h100 File={device}\n" for device in devices]
        (folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(lines))
        # The plugin clears SLURM_* for the srun inside a job, and with it where Slurm is.
        srun = folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {_find("srun")} "$@"\n')
        srun.chmod(0o755)

        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(conf),
            "PATH": f"{folder / 'bin'}:{SEARCH}",
        }

        def start(program: str, *options: str) -> None:
            with (folder / f"{program}.log").open("wb") as log:
                # So that it ends even if this process is killed.
                command = ["setpriv", "--pdeathsig=TERM", _find(program), *options]
                daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(_stop, daemon)

        start(
            *("munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.messages"),
            f"--seed-file={folder}/munged.seed",
        )
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D", "-c", "-f", str(conf))
        start("slurmd", "-D", "-N", host, "-f", str(conf))
        _wait(lambda: _says(environment, "sinfo", "--noheader", "--format=%T") == "idle", folder)
        stack.callback(_cancel_all, environment, folder)
        yield environment


def _find(program: str) -> str:
    return shutil.which(program, path=SEARCH) or ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _says(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _wait(ready: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            logs = "".join(log.read_text() for log in folder.glob("*.log"))
            raise TimeoutError(f"Slurm is not ready after {seconds} s\n{logs}")
        time.sleep(0.1)


def _cancel_all(environment: dict[str, str], folder: Path) -> None:
    subprocess.run(["scancel", "--user=root"], env=environment, check=True)
    _wait(lambda: not _says(environment, "squeue", "--noheader"), folder)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


if __name__ == "__main__":
    try:
        install()
    except Unavailable as reason:
        sys.exit(str(reason))
    with cluster() as environment:
        sys.exit(subprocess.run(sys.argv[1:], env=environment, check=False).returncode)
