"""What a search returns."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ttsnap.rewards.frames import still

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from ttsnap.searching.record import Generator


@dataclass
class Candidate:
    """One trajectory's fate.

    ``noises`` are all that is random about it. The first entry makes the initial noise, the
    following ones those of the steps of a stochastic sampler, as far as it came. An entry is the
    seed of a standard normal noise, followed by the seeds of the moves of the method that led away
    from it; an empty one is no noise (:class:`ttsnap.searching.noise.NoiseSource`).

    Attributes:
        seed: of its own noise: the initial one, or all that was drawn since it left its parent.
        parent: index of the candidate that it is a neighbour or a branch of.
        origin: where it comes from, in words.
        noises: one tuple of seeds per noise.
        reference: with NegToMe, seed of the image that it was pushed away from.
        scores: step index -> score by the first reward, at the looks it lived to see; NaN is one
            that failed.
        rewards: reward name -> score of the final image; empty for those that did not finish.
        weight: of a final particle, its share of what Sequential Monte Carlo samples from.
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
    weight: float | None = None
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
        negative_prompt: likewise; empty for none.
        generator: what drew the images.
        model: name of the text-to-image model.
        rewards: names of the rewards that picked the winner; the first one's score is shown.
        options: the method's own settings.
        budget: allowed.
        planned: cost that the cost model foresaw for all that was begun.
        spent: cost as counted while it ran.
        unit: of these three, such as TFLOPs.
        nfe: denoiser evaluations of all candidates together; unguided ones of drafts are halves.
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
    negative_prompt: str
    generator: Generator
    model: str
    rewards: tuple[str, ...]
    options: dict[str, Any]
    budget: float
    planned: float
    spent: float
    unit: str
    nfe: float
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
    def pil(self) -> PIL.Image.Image:
        """The winner's image as Pillow has it; of a video its middle frame."""
        from PIL import Image

        return Image.fromarray(still(self.image))

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.pil.save(file, "png")
        return file.getvalue()
