"""How long do a user's first commands take, and do they import what is slow?

    python benchmarks/startup.py [RUNS]

Prints one JSON object: of each command, run as a process of its own as often as said (5 times), the
shortest and the median time in seconds by the wall clock, the least that it worked, and which of
torch, diffusers and transformers it imports. The load of the machine stands beside: other programs
disturb the clock.

Then the README's search, with nothing else to do and with two cores that are busy: the shortest
time to its end and to the first that a terminal shows, with the threads that it chooses and with
one (``OMP_NUM_THREADS=1``), and their ratio.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "ttsnap --help": ["ttsnap", "--help"],
    "ttsnap methods": ["ttsnap", "methods"],
    "ttsnap models": ["ttsnap", "models"],
    "snakemake -n": ["snakemake", "-n", "--quiet", "--config", "results=results/startup"],
}
SEARCH = [
    "ttsnap",
    "search",
    "a small red circle left of a large blue ring on a gray background",
]
SLOW = ("torch", "diffusers", "transformers")


def run(command: list[str], **variables: str) -> str:
    """Run a program that stands beside this Python at the root of the project; its stderr."""
    program = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(
        [program, *command[1:]],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stderr


def imported(command: list[str]) -> list[str]:
    """Which of the slow libraries a command imports."""
    log = run(command, PYTHONPROFILEIMPORTTIME="1")
    return [name for name in SLOW if re.search(rf"^import time:.*\| +{name}$", log, re.MULTILINE)]


def cpu_seconds() -> float:
    """What the processes worked that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched(command: list[str], folder: str, **variables: str) -> tuple[float, float]:
    """Seconds until a command shows something on a terminal, and until it has ended well."""
    ours, theirs = pty.openpty()
    program = str(Path(sys.executable).with_name(command[0]))
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env = inherited | {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | variables
    began, first = time.perf_counter(), None
    process = subprocess.Popen(
        [program, *command[1:]], cwd=folder, env=env, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        while os.read(ours, 65536):
            first = first or time.perf_counter() - began
    except OSError:
        pass  # how Linux tells that nobody writes any more
    os.close(ours)
    if process.wait() or first is None:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return first, time.perf_counter() - began


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """As many programs beside that do nothing but compute."""
    with ExitStack() as stack:
        for _ in range(cores):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        yield


def search_times(runs: int) -> dict[str, object]:
    """The README's search by the load beside it and by its threads."""
    found: dict[str, object] = {}
    for name, cores in (("idle", 0), ("two cores busy", 2)):
        times = {}
        with busy(cores), tempfile.TemporaryDirectory() as folder:
            for threads, variables in (("chosen", {}), ("one", {"OMP_NUM_THREADS": "1"})):
                some = [watched(SEARCH, folder, **variables) for _ in range(runs)]
                first, last = map(min, zip(*some, strict=True))
                times[threads] = {"first_shown": round(first, 2), "seconds": round(last, 2)}
        ratio = times["chosen"]["seconds"] / times["one"]["seconds"]
        found[name] = {**times, "ratio": round(ratio, 2)}
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    results: dict[str, object] = {}
    for name, command in COMMANDS.items():
        slow = imported(command)
        seconds, worked = [], []
        for _ in range(runs):
            began, before = time.perf_counter(), cpu_seconds()
            run(command)
            seconds.append(time.perf_counter() - began)
            worked.append(cpu_seconds() - before)
        results[name] = {
            "min_seconds": round(min(seconds), 2),
            "median_seconds": round(median(seconds), 2),
            "min_cpu_seconds": round(min(worked), 2),
            "imports": slow,
        }
    results["ttsnap search"] = search_times(runs)
    about = {"runs": runs, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(results | about, indent=2))


if __name__ == "__main__":
    main()
