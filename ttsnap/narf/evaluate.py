"""How well rewards of early images predict the rewards of the final ones; numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttsnap.schedule import DRAFT, Check
from ttsnap.stats import kendall_tau_rows, mean_interval

if TYPE_CHECKING:
    import pandas as pd

    from ttsnap.store.tensors import RewardTensor

KEEPS = np.arange(1, 20) / 20
COLUMNS = ("step", "kind", "metric", "mean", "low", "high")


def prompt_metrics(scores: NDArray[Any], final: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Compare scores at early steps with the rewards of the final images, prompt by prompt.

    Args:
        scores: (P, I, S).
        final: (P, I).

    Returns:
        By metric (P, S):
        kendall_tau: Kendall's τ-b over the images; 0 where all scores are the same.
        mse: mean squared error.
        t_acc: share of the ``KEEPS`` α, 0.05 … 0.95, at which pruning to the best α of the images
            by score keeps the one that ends best (Tacc of arXiv 2511.22242).
        t_gap: what that pruning costs, the best final reward of all minus that of the kept,
            averaged over the same α (Tgap of arXiv 2511.22242).
    """
    scores = np.moveaxis(np.asarray(scores, np.float64), 1, 2)
    final = np.broadcast_to(np.asarray(final, np.float64)[:, None], scores.shape)
    counts = [Check(0, keep).survivors(scores.shape[-1]) for keep in KEEPS]
    ranking = np.argsort(-scores, axis=-1, kind="stable")
    best_kept = np.maximum.accumulate(np.take_along_axis(final, ranking, -1), axis=-1)
    gaps = best_kept[..., -1:] - best_kept[..., np.array(counts) - 1]
    return {
        "kendall_tau": np.nan_to_num(kendall_tau_rows(scores, final)),
        "mse": np.square(scores - final).mean(axis=-1),
        "t_acc": (gaps == 0).mean(axis=-1),
        "t_gap": gaps.mean(axis=-1),
    }


def evaluate(base: RewardTensor, finetuned: RewardTensor) -> pd.DataFrame:
    """Measure base and finetuned rewards, step by step, against the base reward at the last step.

    Args:
        base: rewards at all steps.
        finetuned: of the same trajectories at the same steps; NaN where there is no checkpoint.

    Returns:
        Rows of step, kind (base, finetuned, difference: finetuned - base), metric
        (see `prompt_metrics`), and mean over prompts with its 95 % bootstrap interval low, high.
        Steps without a checkpoint have rows of the base reward only.

    Raises:
        ValueError: if the tensors are of different trajectories or steps.
    """
    import pandas as pd

    if base.steps != finetuned.steps or not np.array_equal(base.seeds, finetuned.seeds):
        raise ValueError("base and finetuned rewards are of different trajectories or steps")
    trained = ~np.isnan(finetuned.values).any(axis=(0, 1))
    final = base.values[:, :, -1]
    before = prompt_metrics(base.values, final)
    after = prompt_metrics(finetuned.values[:, :, trained], final)
    rows: list[tuple[Any, ...]] = []
    for metric, values in before.items():
        for kind, found, steps in [
            ("base", values, base.steps),
            ("finetuned", after[metric], np.array(base.steps)[trained]),
            ("difference", after[metric] - values[:, trained], np.array(base.steps)[trained]),
        ]:
            rows += _rows(metric, kind, steps, found)
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    return table.sort_values("step", kind="stable", ignore_index=True)


def evaluate_drafts(drafts: NDArray[Any], final: NDArray[Any]) -> pd.DataFrame:
    """Measure rewards of drafts against those of final images, as :func:`evaluate` does those of
    steps.

    Args:
        drafts: (P, I).
        final: (P, I), of the same trajectories.

    Returns:
        The same columns; the step is ``DRAFT``, the kind ``draft``.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for metric, values in prompt_metrics(drafts[:, :, None], final).items():
        rows += _rows(metric, "draft", [DRAFT], values)
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _rows(
    metric: str, kind: str, steps: Sequence[int] | NDArray[Any], values: NDArray[Any]
) -> Iterator[tuple[Any, ...]]:
    """Of values (P, S)."""
    return zip(steps, repeat(kind), repeat(metric), *mean_interval(values))
