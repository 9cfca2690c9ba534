"""Search live with one method on a block of test prompts, at every budget.

Each search leaves a file with its row of the table, in a folder beside the table that is removed
when the table is written. A killed job resumes at the searches that it had not finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ttsnap import config
from ttsnap.diffusion.sources import in_precision_of
from ttsnap.errors import UserError
from ttsnap.prompts import folder_name, load_split
from ttsnap.schedule import Schedule, read_plan, split_look
from ttsnap.stages import (
    CostReceipt,
    ModelReceipt,
    PreviewReceipt,
    RuntimeOption,
    json_option,
    load_preview,
    run,
)
from ttsnap.store.files import atomic
from ttsnap.store.receipts import read_receipt
from ttsnap.store.tensors import write_table

VERSION = 3
VERSIONS = {"mcts": 4, "smc": 4}
"""Those of methods whose results changed since, and no other's."""


def version_of(method: str) -> int:
    """The version of a method's results."""
    return VERSIONS.get(method, VERSION)


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    split: config.SplitSettings
    seed: int
    reward: config.RewardSettings
    reward_name: str
    budgets: list[float]
    options: dict[str, Any]
    prompts_per_job: int
    judge_reward: config.RewardSettings | None
    judge_reward_name: str | None
    judge: str | None
    pictured: int
    prompts: str
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    method: Annotated[str, typer.Option()],
    block: Annotated[int, typer.Option(min=0)],
    model: ModelReceipt,
    reward_cost: CostReceipt,
    out: Annotated[Path, typer.Option()],
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Receipts of NARF checkpoints.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Plan of the reward, for a method that prunes.")
    ] = None,
    preview: PreviewReceipt = None,
) -> None:
    inputs = [model, reward_cost, *(checkpoint or []), *filter(None, [plan, preview])]
    rows = Rows(out.with_suffix(".rows"), settings, method, inputs)
    size = settings.prompts_per_job
    prompts = load_split(settings.split)[block * size : (block + 1) * size]
    left = [
        (number, prompt, budget)
        for number, prompt in enumerate(prompts, start=block * size)
        for budget in settings.budgets
        if (prompt.id, budget) not in rows.found
    ]
    refused = 0
    if left:
        from ttsnap.diffusion import load_sampler
        from ttsnap.errors import JudgeRefused
        from ttsnap.progress import track
        from ttsnap.rewards import load_judge, load_reward
        from ttsnap.rewards.verifiers import SharedReward
        from ttsnap.searching.budget import Budget
        from ttsnap.searching.ledger import UnscoredError
        from ttsnap.searching.output import row, save
        from ttsnap.searching.request import method_named, method_options, planned
        from ttsnap.searching.searcher import Searcher
        from ttsnap.simulation.source import read_costs

        named, look = split_look(method)
        how = method_named(named)
        name, device = settings.reward_name, runtime.device
        costs = read_costs(model, reward_cost, previews=preview is not None)
        found = read_plan(plan) if plan else None
        chosen = {
            budget: planned(found, how.looks_by_narf, budget, name, costs, look)
            if found
            else (how.name, {})
            for budget in settings.budgets
        }
        options = {
            budget: method_options(how, known | settings.options)
            for budget, (_, known) in chosen.items()
        }
        receipts = {
            (path.parent.name.removeprefix(name), read_receipt(path)["step"]): path
            for path in checkpoint or []
        }
        shared = SharedReward(settings.reward, name=name, device=device)
        students = cache(lambda receipt: (shared.verifier(receipt.with_suffix("")),))
        generator = in_precision_of(read_receipt(model), settings.model)
        sampler = load_sampler(generator, settings.sampling, runtime)
        usual, shown = sampler.previewer, load_preview(preview, sampler)
        searcher = Searcher(
            sampler,
            [shared.verifier(None)],
            costs=costs,
            model=generator,
            batch_size=runtime.batch_size,
        )
        oracle = load_judge(settings.judge) if settings.judge else None
        judge = None
        if settings.judge_reward and settings.judge_reward_name:
            judge = load_reward(
                settings.judge_reward, name=settings.judge_reward_name, device=device
            )
        searcher.expect([prompt for _, prompt, _ in left])
        for number, prompt, budget in track(left, f"{method}, searches"):
            strategy, known = chosen[budget]
            runs, suffix = split_look(strategy)
            sampler.previewer = shown if suffix else usual
            checks = Schedule.parse(known.get("schedule", "")).checks
            searcher.verifiers = {
                check.step: students(receipts[suffix, check.step])
                for check in checks
                if (suffix, check.step) in receipts and not runs.endswith("ttsp")
            }
            try:
                result = searcher.run(
                    prompt,
                    how,
                    options[budget],
                    budget=Budget(budget, costs.unit),
                    seed=settings.seed,
                )
            except (UnscoredError, JudgeRefused) as reason:
                logging.warning("prompt %s at %g: %s", prompt.id, budget, reason)
                rows.add(prompt.id, budget, None)
                refused += 1
                continue
            image, texts = result.image[None], [prompt.text]
            judged = {
                "held_out": float(judge.score(image, texts)[0]) if judge else None,
                "oracle": float(oracle(image, texts)[0]) if oracle else None,
            }
            save(
                result,
                out.parent / f"{budget:g}" / folder_name(prompt.id),
                contact=number < settings.pictured,
                settings={"seed": settings.seed, "prompt_id": prompt.id},
            )
            rows.add(prompt.id, budget, row(result, prompt.id, **judged) | {"method": method})
    if refused:
        raise UserError(
            f"{refused} of {len(left)} searches could not be scored, see above; the others are "
            "kept, and the next run goes past these"
        )
    keys = [(prompt.id, budget) for prompt in prompts for budget in settings.budgets]
    table = pd.DataFrame(filter(None, map(rows.found.get, keys)))
    if table.empty:
        raise UserError(f"none of {len(keys)} searches could be scored by {settings.reward_name}")
    write_table(out, table)
    rows.remove()
    for budget in settings.budgets:
        some = table[table.budget == budget]
        mean = some[["reward", "spent", "n", "seconds"]].mean()
        unit = table.unit.iloc[0]
        logging.info(
            "%s at %g %s, mean of %d prompts: %s %.4g, %.3g %s spent, N = %.4g, %.3g s",
            *(method, budget, unit, len(some), settings.reward_name, mean.reward, mean.spent),
            *(unit, mean.n, mean.seconds),
        )


class Rows:
    """What finished searches have found, by prompt and budget, with a file for each.

    Those of a job with other settings or inputs do not count.
    """

    def __init__(
        self, folder: Path, settings: Settings, method: str, inputs: Sequence[Path]
    ) -> None:
        self._folder = folder
        digest = hashlib.sha256(f"{settings.model_dump_json()}\0{method}".encode())
        for path in inputs:
            digest.update(path.read_bytes())
        self._made_from = digest.hexdigest()
        records = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
        self.found: dict[tuple[str, float], dict[str, Any] | None] = {
            (record["prompt_id"], record["budget"]): record["row"]
            for record in records
            if record["made_from"] == self._made_from
        }
        """The row of each search; None where it could not be scored."""

    def add(self, prompt_id: str, budget: float, row: dict[str, Any] | None) -> None:
        """Keep the row of a search, values exact."""
        self.found[prompt_id, budget] = row
        record = {
            "made_from": self._made_from,
            "prompt_id": prompt_id,
            "budget": budget,
            "row": row,
        }
        with atomic(self._folder / f"{prompt_id}@{budget}.json") as file:
            file.write(json.dumps(record).encode())

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._folder, ignore_errors=True)


if __name__ == "__main__":
    run(main)
