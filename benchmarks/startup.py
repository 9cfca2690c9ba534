"""How long do a user's first commands take, and do they import what is slow?

    python benchmarks/startup.py [RUNS]

Prints one JSON object: of each command, run as a process of its own as often as said (5 times), the
shortest and the median time in seconds by the wall clock, the least that it worked, and which of
torch, diffusers and transformers it imports. The load of the machine stands beside: other programs
disturb the clock.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "ttsnap --help": ["ttsnap", "--help"],
    "ttsnap methods": ["ttsnap", "methods"],
    "ttsnap models": ["ttsnap", "models"],
    "snakemake -n": ["snakemake", "-n", "--quiet", "--config", "results=results/startup"],
}
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


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    results = {}
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
    about = {"runs": runs, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(results | about, indent=2))


if __name__ == "__main__":
    main()
