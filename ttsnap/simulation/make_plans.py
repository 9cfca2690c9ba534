"""Make the templates of ``ttsnap.plans`` from released reward tensors.

    python -m ttsnap.simulation.make_plans flux_reward_tensors.npz

Planned TTSp for each budget and reward, on the even prompts, counted from 0; all that is said of it
is from the odd ones. The default schedule is measured on them, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console

import ttsnap
from ttsnap import plans
from ttsnap.errors import UserError
from ttsnap.plans import ANY, DEFAULT, default_schedule, noise_shares
from ttsnap.schedule import CostModel
from ttsnap.simulation.experiment import TTSNAP, TTSP, Experiment
from ttsnap.simulation.omega import BEST_OF_N
from ttsnap.simulation.source import load_source
from ttsnap.simulation.strategies import Curves, given_plan, plan_schedules, simulate_parts
from ttsnap.stats import mean_interval
from ttsnap.store.files import atomic

REWARDS = {
    "imr": ("image-reward", "ImageReward", "zai-org/ImageReward"),
    "pic": ("pickscore", "PickScore", "yuvalkirstain/PickScore_v1"),
    "hps": ("hpsv2", "HPSv2", "xswu/HPSv2"),
}
"""By the name in the tensors: what the template calls it, what people do, and the hub id."""

RUNS = (2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32)
"""Budgets, in full runs."""

EVEN, ODD = slice(0, None, 2), slice(1, None, 2)
DRAWS, SEED = 4096, 0
FIGURES = ("omega", "equivalent_n_ratio", "compute_for_same_reward")


def flux_sigmas(steps: int, tokens: int = 1024) -> list[float]:
    """Noise levels of FLUX.1-dev for a picture of so many tokens, 1024 of 512 x 512 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    # scheduler/scheduler_config.json of black-forest-labs/FLUX.1-dev; the shift is linear in tokens
    # between the two lengths.
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    shift = np.interp(tokens, (256, 4096), (0.5, 1.15))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    return scheduler.sigmas[:-1].tolist()


def sdxl_sigmas(steps: int) -> list[float]:
    """Noise levels of SDXL."""
    from diffusers import EulerDiscreteScheduler

    # scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler.sigmas[:-1].tolist()


class Released(NamedTuple):
    """A model whose rewards were released.

    Attributes:
        words: the model and how it was sampled.
        sigmas: noise levels of so many steps.
        denoise: price of an evaluation, in TFLOPs.
        verify: of a decode and a score.
    """

    words: str
    sigmas: Callable[[int], list[float]]
    denoise: float
    verify: float


MODELS = {
    # Prices as published.
    "flux": Released("FLUX.1-dev, guidance 3.5, NegToMe", flux_sigmas, 9.9, 1.2),
    # Prices of docs/costs.md.
    "sdxl": Released("RealVisXL 4.0, guidance 5, NegToMe", sdxl_sigmas, 3.178, 2.85),
}


DEFAULT_FAMILY = "flux"
"""The one whose rewards the default schedule is measured on."""


def make(tensors: Path, family: str, finetuned: bool = False) -> tuple[list[dict[str, Any]], str]:
    """The templates of a family, and in words how good they are.

    Args:
        tensors: ``.npz`` with ``imr_base``, ``pic_base``, ``hps_base`` or some of them, (prompts,
            images, steps).
        family: one of ``MODELS``.
        finetuned: also say what TTSnap gains by the finetuned rewards, which no template is for.
    """
    loaded = load_source(tensors)
    if missing := loaded.keys() - REWARDS.keys():
        raise UserError(f"{tensors}: rewards {', '.join(missing)}, expected {', '.join(REWARDS)}")
    model = MODELS[family]
    prompts, images, steps = next(iter(loaded.values())).base.shape
    costs = CostModel(model.denoise, 0.0, model.verify, steps)
    budgets = [runs * costs.cost(1) for runs in RUNS]
    noise = np.round(noise_shares(model.sigmas(steps)), 4).tolist()
    place = f"{model.words}, 512 x 512 pixels, {steps} steps"
    provenance = {
        "source": "reward tensors released with TTSnap (arXiv 2511.22242)",
        "file": tensors.name,
        "sha256": hashlib.sha256(tensors.read_bytes()).hexdigest(),
        "prompts": prompts,
        "images": images,
        "chosen_on": "even prompts, counted from 0",
        "held_out": "odd prompts",
        "accounting": costs.accounting,
        "costs": {"denoise": costs.denoise, "verify": costs.verify},
        "seed": SEED,
        "version": ttsnap.__version__,
    }
    found, lines, defaults = [], [], {}
    for name, pair in loaded.items():
        reward, words, hub_id = REWARDS[name]
        experiment = Experiment({name: pair if finetuned else pair.untouched}, costs)
        chosen = plan_schedules(experiment.of(EVEN), budgets, SEED)
        judged = simulate_parts(experiment.of(ODD), chosen, budgets, DRAWS, SEED)
        held_out = _figures(judged, TTSP)
        ours = [one for one in chosen["plans"] if one["strategy"] == TTSP]
        found.append(
            {
                "name": f"{family}-{reward}",
                "family": family,
                "reward": reward,
                "measured_on": f"{place}, {words}",
                "steps": steps,
                "plans": _described(ours, judged, noise, name),
                "held_out": {reward: held_out},
                "provenance": {**provenance, "reward": hub_id, "array": f"{name}_base"},
            }
        )
        lines.append(f"{found[-1]['name']}: TTSp {_said(held_out)}")
        if finetuned:
            lines.append(f"{words}, finetuned: TTSnap {_said(_figures(judged, TTSNAP))}")
        given = given_plan(experiment.of(ODD), default_schedule(steps), budgets, SEED)
        defaults[reward] = _figures(
            simulate_parts(experiment.of(ODD), given, budgets, DRAWS, SEED), TTSP
        )
        lines.append(f"default, {words}: {_said(defaults[reward])}")
    shares = [100 * one["held_out"][one["reward"]][FIGURES[2]][0] for one in found]
    lines.append(
        f"The same reward at {min(shares):.0f} to {max(shares):.0f} % of best-of-N's compute, by "
        f"planned TTSp on {model.words}, on {prompts // 2} prompts that nothing was chosen on."
    )
    if family == DEFAULT_FAMILY:
        named = ", ".join(REWARDS[name][1] for name in loaded)
        found.append(
            {
                "name": "default",
                "family": ANY,
                "reward": ANY,
                "measured_on": f"{place}, by the reward that gains least of {named}",
                "steps": steps,
                "plans": [],
                "held_out": defaults,
                "provenance": provenance | {"rule": DEFAULT},
            }
        )
    return found, "\n".join(lines)


def _figures(judged: Curves, strategy: str) -> dict[str, list[float]]:
    """Mean, low and high of each figure."""
    rows = judged.omega[judged.omega.strategy == strategy]
    return {
        figure: [round(rows[figure + end].item(), 4) for end in ("", "_low", "_high")]
        for figure in FIGURES
    }


def _described(
    ours: list[dict[str, Any]], judged: Curves, noise: list[float], reward: str
) -> list[dict[str, Any]]:
    gains = judged.per_prompt[TTSP, reward] - judged.per_prompt[BEST_OF_N, reward]
    intervals = np.stack(mean_interval(gains, seed=SEED), axis=1)
    return [
        {
            "runs": runs,
            "n": one["n"],
            "checks": [
                {"step": check["step"], "noise": noise[check["step"]], "keep": check["keep"]}
                for check in one["checks"]
            ],
            "gain": [float(f"{value:.4g}") for value in interval],
        }
        for runs, one, interval in zip(RUNS, ours, intervals, strict=True)
    ]


def _said(figures: Mapping[str, list[float]]) -> str:
    words = ("ω {:.1f} % [{:.1f}, {:.1f}]", "M/N {:.2f} [{:.2f}, {:.2f}]")
    compute = (100 * value for value in figures[FIGURES[2]])
    parts = [form.format(*figures[name]) for form, name in zip(words, FIGURES, strict=False)]
    return ", ".join(
        [*parts, "same reward at {:.0f} % [{:.0f}, {:.0f}] of the compute".format(*compute)]
    )


def main(
    tensors: Annotated[Path, typer.Argument(help=".npz with imr_base, pic_base, hps_base.")],
    family: Annotated[str, typer.Option(help=f"Of the model: {', '.join(MODELS)}.")] = "flux",
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path(plans.__file__).parent,
    finetuned: Annotated[
        bool, typer.Option("--finetuned", help="Also say what TTSnap gains, by imr_naft, ….")
    ] = False,
) -> None:
    found, said = make(tensors, family, finetuned)
    for one in found:
        with atomic(out / f"{one['name']}.json") as file:
            file.write((json.dumps(one, indent=1) + "\n").encode())
    Console().print(said, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    typer.run(main)
