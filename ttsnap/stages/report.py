"""Figures and headline numbers of a run, from its tables, tensors and stored images."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from ttsnap import config
from ttsnap.config import load_config
from ttsnap.prompts import folder_name
from ttsnap.run.status import SETTINGS, rows, stage_statuses
from ttsnap.schedule import CostModel, Schedule, planned_schedule, read_plan, split_look
from ttsnap.searching.methods import METHODS
from ttsnap.simulation.experiment import BEST, TTSNAP, TTSP, named
from ttsnap.stages import StoreOption, json_option, run
from ttsnap.store.receipts import read_receipt
from ttsnap.store.tensors import write_table
from ttsnap.store.trajectories import TrajectoryStore, open_store


class Settings(config.Settings):
    report: config.Report
    budget: float
    methods: list[str]
    blocks: int
    reward: str
    looks: list[str]
    judge_reward: str | None
    metrics: list[str]
    curves: list[str]
    prompt_ids: list[str]


def main(
    settings: Annotated[Settings, json_option(Settings)],
    folder: Annotated[Path, typer.Option(help="Folder of the run.")],
    store: StoreOption,
    checkpoint: Annotated[list[Path], typer.Option(help="Receipts of NARF checkpoints.")],
    out: Annotated[Path, typer.Option(help="Headline numbers, JSON.")],
) -> None:
    from ttsnap.report import figures
    from ttsnap.report.page import compared
    from ttsnap.report.summary import headline
    from ttsnap.simulation.source import read_costs

    name = settings.reward
    figures_folder = folder / "report"
    figures_folder.mkdir(exist_ok=True)
    plan = read_plan(folder / f"plan/{name}.json")
    prices = partial(read_costs, folder / "model.json", folder / f"rewards/{name}/cost.json")
    headliner = BEST if len(settings.looks) > 1 else TTSNAP
    strategy, schedule = planned_schedule(
        plan, headliner, settings.budget, reward=name, costs=prices()
    )
    costs = prices(previews=bool(split_look(strategy)[1]))

    tables = [
        folder / f"search/{method}/block_{block:04d}.parquet"
        for method in settings.methods
        for block in range(settings.blocks)
    ]
    searched = pd.concat([pd.read_parquet(table) for table in tables], ignore_index=True)
    write_table(folder / "search/results.parquet", searched)
    figures.live(searched, figures_folder / "live", reward=name)
    if "oracle" in settings.metrics:
        figures.oracle_accuracy(searched, figures_folder / "oracle")
    if settings.judge_reward:
        figures.held_out(searched, figures_folder / "held_out", reward=settings.judge_reward)
    axes = {
        "reward": f"reward ({name})",
        "held_out": f"held-out reward ({settings.judge_reward})",
        "oracle": "oracle accuracy",
        "diversity": "diversity of finals",
    }
    for metric in settings.curves:
        path = figures_folder / f"compute_{metric}"
        figures.against_compute(searched, metric, path, axis=axes[metric])
    for column, kind in {"spent": "compute", "seconds": "seconds"}.items():
        path = figures_folder / f"reward_by_{kind}.svg"
        shown = compared(settings.methods)
        figures.reward_by(searched, column, path, title=f"reward ({name})", methods=shown)
    stored = open_store(store)
    _draw_gallery(settings, searched, stored, folder / "search", figures_folder / "gallery.png")

    evaluations = {
        look: pd.read_csv(folder / f"evaluation/{name}{look}.csv") for look in settings.looks
    }
    figures.rank_consistency(evaluations, figures_folder / "rank_consistency", schedule=schedule)
    known = CostModel(**plan["costs"], steps=plan["steps"])
    figures.looks(
        figures.priced_looks(evaluations, known),
        figures_folder / "looks",
        whole=known.cost(1) / known.denoise,
    )
    curves, omega = (
        named(pd.read_csv(folder / f"simulation/{name}/{table}.csv"))
        for table in ("curves", "omega")
    )
    figures.reward_vs_budget(curves, omega, figures_folder / "reward_vs_budget", unit=costs.unit)
    figures.omega(omega, figures_folder / "omega")
    figures.schedules_over_budgets(plan, figures_folder / "schedules", reward=name)
    for look in settings.looks:
        histories = {
            read_receipt(receipt)["step"]: pd.read_csv(receipt.with_suffix("") / "history.csv")
            for receipt in checkpoint
            if receipt.parent.name == f"{name}{look}"
        }
        figures.training(histories, figures_folder / f"training{look}", look=look)
    figures.costs(costs, schedule, settings.budget, figures_folder / "costs")

    took = pd.DataFrame(rows(stage_statuses(load_config(folder / SETTINGS), folder)))
    took = took[~took.stage.isin(("report", "page"))]
    took.to_csv(figures_folder / "stages.csv", index=False)
    figures.stages(took, figures_folder / "stages")

    _draw_trajectories(settings, strategy, schedule, stored, folder, figures_folder)
    # The last method that prunes has most to show.
    pruning = [one for one in settings.methods if METHODS[split_look(one)[0]].prunes]
    last, first = [*settings.methods, *pruning][-1], settings.prompt_ids[0]
    contact = folder / f"search/{last}/{settings.budget:g}/{folder_name(first)}/contact.png"
    shutil.copyfile(contact, figures_folder / "contact.png")
    logging.info("%d figures in %s", len(list(figures_folder.glob("*.png"))), figures_folder)
    out.write_text(json.dumps(headline(folder), indent=2) + "\n")


def _draw_gallery(
    settings: Settings, searched: pd.DataFrame, store: TrajectoryStore, where: Path, path: Path
) -> None:
    """What every method returned for the first prompts at the largest budget."""
    from PIL import Image

    from ttsnap.report import galleries
    from ttsnap.report.figures import ranked_methods

    methods = ranked_methods(searched)
    largest = searched[searched.budget == settings.budget]
    scores = largest.pivot(index="prompt_id", columns="method", values="reward")
    texts = {prompt.id: prompt.text for prompt in store.prompts}
    galleries.gallery(
        [
            [
                np.array(Image.open(where / method / f"{settings.budget:g}" / one / "best.png"))
                for method in methods
            ]
            for one in map(folder_name, settings.prompt_ids)
        ],
        scores.loc[settings.prompt_ids, methods].to_numpy(),
        [texts[one] for one in settings.prompt_ids],
        methods,
        path,
        subtitle=f"The best image at {settings.budget:g} {searched.unit.iloc[0]} per prompt, with "
        f"its reward ({settings.reward}); framed: the highest",
    )


def _draw_trajectories(
    settings: Settings,
    strategy: str,
    schedule: Schedule,
    store: TrajectoryStore,
    folder: Path,
    figures_folder: Path,
) -> None:
    """What the schedule would have pruned among the first candidates of the first prompts."""
    from ttsnap.report import galleries
    from ttsnap.simulation.montecarlo import replay
    from ttsnap.simulation.source import load_pair

    runs, look = split_look(strategy)
    tensors = folder / f"tensors/{settings.reward}{look}"
    rewards = load_pair(
        tensors / "test.base.zarr",
        tensors / "test.finetuned.zarr",
        read_receipt(folder / "model.json")["steps"],
    )
    seen = rewards.base if runs == TTSP else rewards.finetuned
    for position in range(settings.report.prompts):
        images = store.trajectory(position)[: settings.report.candidates]
        final = rewards.final[position, : len(images)]
        fate = replay(seen[position, : len(images)], final, schedule)
        pruned: list[int | None] = [None] * len(images)
        alive = np.arange(len(images))
        for check, kept in zip(schedule.checks, fate.survivors, strict=True):
            for candidate in np.setdiff1d(alive, kept):
                pruned[candidate] = check.step
            alive = kept
        galleries.trajectories(
            images,
            final.tolist(),
            store.steps,
            store.prompts[position].text,
            figures_folder / f"trajectories_{position + 1}.png",
            pruned_at=pruned,
        )


if __name__ == "__main__":
    run(main)
