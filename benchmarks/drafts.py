"""What drafts tell at what price, beside checks, and what planning with them gains.

    python benchmarks/drafts.py RUN OUT [STEPS …]

Of a finished run of the embedded world, or of its tensors alone, drafts of all val and test images
are made, with guidance and without, and scored. Schedules are planned on val at the price of 4 to
12 whole images and judged on test. Writes tensors that `ttsnap simulate --draft` takes and a
figure, keeps drafts in OUT for the next time, and prints Markdown.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ttsnap.config import Config, load_config
from ttsnap.diffusion import load_sampler
from ttsnap.diffusion.sampler import Sampler
from ttsnap.generate import draft_images
from ttsnap.progress import quiet_libraries, track
from ttsnap.report import figures
from ttsnap.report.figures.looks import SERIES
from ttsnap.rewards import Reward, load_reward
from ttsnap.run.status import SETTINGS
from ttsnap.schedule import AT_PREVIEWS, CostModel
from ttsnap.simulation.experiment import Experiment
from ttsnap.simulation.source import RewardPair, load_pair, read_costs
from ttsnap.simulation.strategies import plan_schedules, simulate_parts
from ttsnap.stats import kendall_tau_rows, mean_interval
from ttsnap.store.trajectories import TrajectoryStore, open_store

SPLITS = ("val", "test")
IMAGES = range(4, 13)  # whole ones that budgets pay for
NAMES = SERIES | {"draft": "drafts without guidance", "draft+ttsp": "drafts with guidance"}


def drafts(sampler: Sampler, reward: Reward, store: TrajectoryStore, words: str) -> np.ndarray:
    """Rewards (P, I) of drafts from the noise of all images of a store."""
    rows = []
    for number, prompt in enumerate(track(store.prompts, words)):
        batches = draft_images(sampler, store, number, store.images_per_prompt)
        rows.append(np.concatenate([reward.score(b, [prompt.text] * len(b)) for b in batches]))
    return np.stack(rows)


def of_tensors(run: Path, reward: str, split: str, steps: int) -> RewardPair | None:
    """Rewards of a run's checks; nothing finetuned where there are no such tensors."""
    base, finetuned = (
        run / f"tensors/{reward}/{split}.{kind}.zarr" for kind in ("base", "finetuned")
    )
    if not base.exists():
        return None
    if finetuned.exists():
        return load_pair(base, finetuned, steps)
    return load_pair(base, base, steps).untouched


def agreement(values: np.ndarray, final: np.ndarray) -> dict[str, float]:
    """Kendall τ with the final rewards, mean over prompts with its interval."""
    mean, low, high = mean_interval(kendall_tau_rows(values, final), seed=0)
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def looks(
    run: Path, reward: str, costs: CostModel, made: dict[tuple[int, bool], np.ndarray]
) -> pd.DataFrame:
    """A row for each kind of look at test images: series, name, price in evaluations, τ."""
    rows = []
    final = of_tensors(run, reward, "test", costs.steps).final
    for look, price in (("", costs.decode), (AT_PREVIEWS, costs.preview)):
        pair = of_tensors(run, reward + look, "test", costs.steps)
        if pair is None or price is None:
            continue
        for kind, values, steps in (
            ("ttsp", pair.base, pair.base_steps),
            ("ttsnap", pair.finetuned, pair.finetuned_steps),
        ):
            for step in steps:
                if step < costs.steps - 1:
                    paid = step + 1 + (price + costs.reward) / costs.denoise
                    name = f"check at step {step}"
                    rows.append(
                        {"series": kind + look, "look": name, "price": paid}
                        | agreement(values[:, :, step], final)
                    )
    for (steps, guided), values in made.items():
        paid = steps * (1 if guided else 0.5) + costs.verify / costs.denoise
        series = "draft+ttsp" if guided else "draft"
        rows.append(
            {"series": series, "look": f"draft of {steps} steps", "price": paid}
            | agreement(values, final)
        )
    return pd.DataFrame(rows).sort_values(["series", "price"])


def interval(row: pd.Series, name: str, form: str = "+.1f") -> str:
    mean, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def main(run: Path, out: Path, steps: list[int]) -> None:
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    config: Config = load_config(run / SETTINGS)
    name = config.search.reward
    costs = read_costs(run / "model.json", run / f"rewards/{name}/cost.json", previews=True)
    sampler = load_sampler(config.model, config.sampling, config.runtime)
    reward = load_reward(config.rewards[name], name=name, device=config.runtime.device)
    kinds = [(count, guided) for guided in (False, True) for count in steps]
    made: dict[str, dict[tuple[int, bool], np.ndarray]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        store = open_store(run / f"trajectories/{split}.zarr")
        for count, guided in kinds:
            words = f"{split}, {count} steps {'with' if guided else 'without'} guidance"
            kept = out / f"{split}_{count}_{'guided' if guided else 'unguided'}.npy"
            if not kept.exists():
                np.save(kept, drafts(sampler.drafter(count, guided), reward, store, words))
            made[split][count, guided] = np.load(kept)

    table = looks(run, name, costs, made["test"])
    figures.looks(table, out / "looks.png", whole=costs.cost(1) / costs.denoise, names=NAMES)
    print("| look | what judges | price, evaluations | Kendall τ |\n|---|---|---|---|")
    for row in table.to_dict("records"):
        tau = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row)
        print(f"| {row['look']} | {NAMES[row['series']]} | {row['price']:.2f} | {tau} |")

    pairs = {split: of_tensors(run, name, split, costs.steps) for split in SPLITS}
    plain = replace(costs, preview=None)
    budgets = [plain.cost(1) * count for count in IMAGES]
    print("\n| drafts | ω of TTSp | drafts alone | drafts, then TTSp | expected on val |")
    print("|---|---|---|---|---|")
    for count, guided in kinds:
        priced = replace(plain, draft=count * (1 if guided else 0.5))
        val, test = (
            Experiment(
                {name: pairs[one].untouched}, priced, drafts={name: made[one][count, guided]}
            )
            for one in SPLITS
        )
        planned = plan_schedules(val, budgets, 0)
        omega = simulate_parts(test, planned, budgets, 1024, 0).omega.set_index("strategy")
        cells = [interval(omega.loc[one], "omega") for one in ("ttsp", "draft", "draft+ttsp")]
        expected = [
            np.mean(
                [one["expected"]["mean"] for one in planned["plans"] if one["strategy"] == kind]
            )
            for kind in ("ttsp", "draft+ttsp")
        ]
        words = f"{count} steps {'with' if guided else 'without'} guidance"
        print(f"| {words} | {' | '.join(cells)} | {expected[1] - expected[0]:+.3f} |", flush=True)
        np.savez(
            out / f"test_{count}_{'guided' if guided else 'unguided'}.npz",
            **{f"{name}_base": pairs["test"].base, f"{name}_draft": made["test"][count, guided]},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(one) for one in sys.argv[3:]] or [3, 4, 5, 6])
