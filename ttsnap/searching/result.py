"""What a search returns, and how it is kept on disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ttsnap.rewards.frames import still

THUMBNAIL = 128  # pixels, longest side


@dataclass
class Candidate:
    """One trajectory's fate.

    ``noises`` are all that is random about it. The first entry makes the initial noise, the
    following ones those of the steps of a stochastic sampler, as far as it came. An entry is the
    seed of a standard normal noise, followed by the seeds of the moves of the method that led away
    from it (:func:`ttsnap.searching.noise.build`).

    Attributes:
        seed: of its own noise: the initial one, or all that was drawn since it left its parent.
        parent: index of the candidate that it is a neighbour or a branch of.
        origin: where it comes from, in words.
        noises: one tuple of seeds per noise.
        reference: with NegToMe, seed of the image that it was pushed away from.
        scores: step index -> score by the first reward, at the looks it lived to see; NaN is one
            that failed.
        rewards: reward name -> score of the final image; empty for those that did not finish.
        pruned_at: step index of the look that dropped it; None for those that finished.
        thumbnails: step index -> uint8 (h, w, 3), the decoded Tweedie estimate at each look.
    """

    seed: int
    parent: int | None = None
    origin: str = ""
    noises: tuple[tuple[int, ...], ...] = ()
    reference: int | None = None
    scores: dict[int, float] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    pruned_at: int | None = None
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass
class Round:
    """The images that a method finished together: a round, a restart, a wave.

    The names are those of the records that systems of this kind write per round.

    Attributes:
        search_round: counted from 1.
        num_noises: candidates that finished in it.
        best_noise_seed: seed of the best of them.
        best_score: its score by the first reward.
        choice_of_metric: name of that reward.
        best: index of the best candidate.
        image: its image, uint8 (H, W, 3), or video (F, H, W, 3).
        best_img_path: where that was saved; None before.
    """

    search_round: int
    num_noises: int
    best_noise_seed: int
    best_score: float
    choice_of_metric: str
    best: int
    image: np.ndarray = field(repr=False)
    best_img_path: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """The best image of a search and how it was found.

    Attributes:
        method: its name on the command line.
        prompt: the text.
        model: name of the text-to-image model.
        rewards: names of the rewards that picked the winner; the first one's score is shown.
        options: the method's own settings.
        budget: allowed.
        planned: cost that the cost model foresaw for all that was begun.
        spent: cost as counted while it ran.
        unit: of these three, such as TFLOPs.
        nfe: denoiser evaluations of all candidates together.
        decodes: images decoded.
        scored: images scored.
        seconds: wall clock.
        interrupted: whether it was stopped before it had used the budget.
        winner: index of the best candidate.
        image: uint8 (H, W, 3), its final image; of a family of videos (F, H, W, 3).
        candidates: all of them, in the order in which they were begun.
        rounds: of the method, in order.
        finals: index of a candidate -> its final image, of all that finished if they were asked
            for; else empty.
        frame_rate: frames per second, of videos.
    """

    method: str
    prompt: str
    model: str
    rewards: tuple[str, ...]
    options: dict[str, Any]
    budget: float
    planned: float
    spent: float
    unit: str
    nfe: int
    decodes: int
    scored: int
    seconds: float
    interrupted: bool
    winner: int
    image: np.ndarray = field(repr=False)
    candidates: list[Candidate] = field(repr=False)
    rounds: list[Round] = field(repr=False)
    finals: dict[int, np.ndarray] = field(repr=False)
    frame_rate: float | None = None

    @property
    def reward(self) -> str:
        """Name of the reward whose score is shown."""
        return self.rewards[0]

    @property
    def schedule(self) -> str:
        """Checks as ``STEP:KEEP,…``; empty for a method that has none."""
        return str(self.options.get("schedule", ""))

    @property
    def seed(self) -> int:
        """Noise seed of the winner."""
        return self.candidates[self.winner].seed

    @property
    def score(self) -> float:
        """Reward of the winner's final image."""
        return self.candidates[self.winner].rewards[self.reward]

    @property
    def diversity(self) -> float | None:
        """How varied the finished images are; None of fewer than two.

        Root mean square difference of two of them, averaged over all pairs, at 32 x 32 pixels with
        values in [0, 1]: coarse enough to compare what is seen where, not its grain.
        """
        from scipy.spatial.distance import pdist

        finals = [one.thumbnails[max(one.scores)] for one in self.candidates if one.rewards]
        if len(finals) < 2:
            return None
        small = [
            np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), np.float32)
            for image in finals
        ]
        flat = np.stack(small).reshape(len(small), -1) / 255
        return float(pdist(flat).mean() / flat.shape[1] ** 0.5)

    def row(self, prompt_id: str, **judged: float | None) -> dict[str, Any]:
        """This search as a row of ``search/results.parquet``, with what others say of its image."""
        return {
            "method": self.method,
            "budget": self.budget,
            "prompt_id": prompt_id,
            "reward": self.score,
            **judged,
            "diversity": self.diversity,
            "spent": self.spent,
            "unit": self.unit,
            "nfe": self.nfe,
            "n": len(self.candidates),
            "seed": self.seed,
            "seconds": self.seconds,
        }

    def save(
        self, folder: Path, *, contact: bool = True, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Write images, records and trace, see :func:`ttsnap.searching.output.save`."""
        from ttsnap.searching import output

        output.save(self, Path(folder), contact=contact, settings=settings)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        png = io.BytesIO()
        Image.fromarray(still(self.image)).save(png, "png")
        return png.getvalue()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """``image`` with its longest side reduced to 128 pixels if it is larger.

    Args:
        image: uint8 (H, W, 3), or a video (F, H, W, 3), which its middle frame stands for.
    """
    picture = Image.fromarray(still(image))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.array(picture)
