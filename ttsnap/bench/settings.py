"""What a benchmark of searches consists of, and where its parts lie below its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ttsnap.config import RewardSettings, Settings
from ttsnap.errors import UserError
from ttsnap.prompts import folder_name

BENCH, PROMPTS = "bench.json", "prompts.jsonl"
JUDGES = ("own", "held_out")


class Judge(Settings):
    """What says how good the pictures are that a search found; it has no part in the search.

    Attributes:
        name: for people.
        reward: its settings.
        function: MODULE:FUNCTION in place of a reward.
    """

    name: str
    reward: RewardSettings | None = None
    function: str | None = None


class Bench(Settings):
    """All of it, as ``bench.json`` beside the results has it.

    Attributes:
        name: of the benchmark.
        model: for people.
        reward: name of the one that searches.
        search: arguments of every ``ttsnap search``.
        methods: of search.
        budgets: as they are written.
        judges: the benchmark's own and a held-out reward, those of ``JUDGES`` that there are.
        prompts: how many.
        prompts_per_job: how many in a shard.
        device: as ``--device``.
    """

    name: str
    model: str
    reward: str
    search: list[str]
    methods: list[str]
    budgets: list[str]
    judges: dict[str, Judge]
    prompts: int
    prompts_per_job: int
    device: str

    @property
    def measure(self) -> str:
        """What methods are compared by: the benchmark's own judge, else the reward."""
        return "own" if "own" in self.judges else "reward"

    @property
    def blocks(self) -> list[str]:
        """Names of the shards."""
        return [f"{at:04d}" for at in range(-(-self.prompts // self.prompts_per_job))]


def read_bench(out: Path) -> Bench:
    """What the folder of a benchmark says that it consists of."""
    return Bench.model_validate_json((out / BENCH).read_bytes())


def read_prompts(out: Path) -> list[dict[str, Any]]:
    """The prompts in their order: id, prompt, category, and what the benchmark's judge goes by."""
    lines = (out / PROMPTS).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def write_bench(out: Path, bench: Bench, prompts: Sequence[dict[str, Any]]) -> None:
    """Lay out the folder of a benchmark; methods, budgets and judges may change later.

    Raises:
        UserError: the folder holds another benchmark, or the same of another model or reward.
    """
    if (out / BENCH).exists():
        there = read_bench(out)
        for key in ("name", "search", "prompts_per_job"):
            if getattr(there, key) != getattr(bench, key):
                was, now = (json.dumps(getattr(one, key)) for one in (there, bench))
                raise UserError(f"{out}: holds a benchmark with another {key} ({was}, not {now})")
        if read_prompts(out) != list(prompts):
            raise UserError(f"{out}: holds a benchmark of other prompts; choose another --out")
    out.joinpath("prompts").mkdir(parents=True, exist_ok=True)
    _write_lines(out / PROMPTS, prompts)
    size = bench.prompts_per_job
    texts = [{"id": one["id"], "prompt": one["prompt"]} for one in prompts]
    for at, block in enumerate(bench.blocks):
        _write_lines(block_file(out, block), texts[at * size : (at + 1) * size])
    (out / BENCH).write_text(bench.model_dump_json(indent=2) + "\n", encoding="utf-8")


def block_file(out: Path, block: str) -> Path:
    """The prompts of a shard, as ``ttsnap search --prompts`` takes them."""
    return out / f"prompts/block_{block}.jsonl"


def folders(
    out: Path, methods: Sequence[str], budgets: Sequence[str], prompts: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, str, dict[str, Any], Path]]:
    """Method, budget, prompt, and where that search leaves what it found."""
    for method in methods:
        for budget in budgets:
            for one in prompts:
                yield method, budget, one, out / "search" / method / budget / folder_name(one["id"])


def _write_lines(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write only what is new, since dates count."""
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
