"""Simulation and planning from Python, on arrays or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ttsnap.schedule import CostModel, Schedule
    from ttsnap.simulation.experiment import Experiment
    from ttsnap.simulation.strategies import Curves

    Rewards = str | Path | np.ndarray | Mapping[str, np.ndarray | tuple[np.ndarray, np.ndarray]]


def plan(
    rewards: Rewards,
    budgets: Sequence[float],
    *,
    costs: CostModel,
    joint: bool = False,
    weights: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Plan TTSp, and TTSnap where there are finetuned rewards: the best schedule for each budget.

    Args:
        rewards: of Tweedie estimates, floating point (prompts, images, steps), the last step that
            of the final images and NaN at steps that were not scored; or by their names several
            such arrays of the same trajectories, or pairs of an untouched and a finetuned one; or
            an ``.npz`` or a run's folder of tensors, as `ttsnap simulate` takes them.
        budgets: compute per prompt, in the unit of ``costs``.
        costs: prices of a candidate, ``ttsnap.schedule.CostModel``. If previews have one, those of
            a run are planned beside decodes; if drafts have, those of an ``.npz`` are, which it
            has as ``<reward>_draft`` (prompts, images).
        joint: whether to prune and to pick by all rewards together, by their ranks.
        weights: with ``joint``, one per reward: add up z-scores instead.
        steps: indices at which a check may be; by default all that were scored.
        seed: of the random subsets that schedules are compared on.

    Returns:
        A plan file's content: what ``json.dump`` writes of it, `ttsnap search --plan` runs. Its
        expectations are on the prompts planned on, which flatters plans.

    Raises:
        UserError: rewards of another shape or partly NaN; a budget that does not afford one
            candidate, or more than there are images.
    """
    from ttsnap.simulation.strategies import plan_file, plan_schedules

    experiment = _experiment(rewards, costs, joint, weights)
    planned = plan_schedules(experiment, budgets, seed, steps=steps)
    source = str(rewards) if isinstance(rewards, str | Path) else "arrays"
    return plan_file(planned, experiment, {"source": source, "prompts": "all", "seed": seed})


def simulate(
    rewards: Rewards,
    budgets: Sequence[float],
    *,
    costs: CostModel,
    schedule: Mapping[str, Any] | Schedule | str,
    joint: bool = False,
    weights: Sequence[float] | None = None,
    draws: int = 1024,
    seed: int = 0,
) -> Curves:
    """What best-of-N, TTSp and TTSnap find at each budget, replayed on rewards.

    Args:
        rewards: see :func:`plan`; other prompts than those planned on.
        budgets: compute per prompt, in the unit of ``costs``; two at least.
        costs: prices of a candidate, ``ttsnap.schedule.CostModel``.
        schedule: what :func:`plan` gave, for these budgets; or one for all of them, as text such
            as ``"2:0.4,6:0.4"``.
        joint: whether to prune and to pick by all rewards together, by their ranks.
        weights: with ``joint``, one per reward: add up z-scores instead.
        draws: random subsets of a prompt's images.
        seed: of the subsets and of the bootstrap.

    Returns:
        With two data frames: ``table``, the mean final reward with its interval over prompts; and
        ``omega``, ω and what it is worth in candidates and in compute.

    Raises:
        UserError: as :func:`plan`; a check at a step without rewards; ω is undefined.
    """
    from ttsnap.schedule import Schedule
    from ttsnap.simulation.strategies import given_plan, simulate_parts

    experiment = _experiment(rewards, costs, joint, weights)
    if isinstance(schedule, str):
        schedule = Schedule.parse(schedule)
    if isinstance(schedule, Schedule):
        schedule = given_plan(experiment, schedule, budgets, seed)
    return simulate_parts(experiment, schedule, budgets, draws, seed)


def _experiment(
    rewards: Rewards, costs: CostModel, joint: bool, weights: Sequence[float] | None
) -> Experiment:
    import numpy as np

    from ttsnap.simulation.experiment import Experiment
    from ttsnap.simulation.source import by_look, load_drafts, load_source, pair_of

    if isinstance(rewards, str | Path):
        decodes, previews = by_look(load_source(Path(rewards)))
        priced = {} if costs.preview is None else previews
        drafts = {} if costs.draft is None else load_drafts(Path(rewards), decodes)
        return Experiment(decodes, costs, joint, weights, previews=priced, drafts=drafts)
    named = rewards if isinstance(rewards, Mapping) else {"reward": rewards}
    pairs = {
        name: pair_of(name, *map(np.asarray, one if isinstance(one, tuple) else (one,)))
        for name, one in named.items()
    }
    return Experiment(pairs, costs, joint, weights)
