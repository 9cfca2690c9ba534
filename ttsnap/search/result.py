"""What a search returns, and how it is kept on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

THUMBNAIL = 128  # pixels, longest side


@dataclass
class Candidate:
    """One seed's fate.

    Attributes:
        seed: of its initial noise.
        scores: step index -> score, at the looks it lived to see.
        pruned_at: step index of the check that dropped it; None for those that finished.
        thumbnails: step index -> uint8 (h, w, 3), the decoded Tweedie estimate at each look.
    """

    seed: int
    scores: dict[int, float] = field(default_factory=dict)
    pruned_at: int | None = None
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class SearchResult:
    """The best image of a search and how it was found.

    Attributes:
        method: its name on the command line.
        prompt: the text.
        model: name of the text-to-image model.
        reward: name of the reward that picked the winner.
        schedule: checks as ``STEP:KEEP,…``; empty for best-of-N.
        budget: allowed.
        planned: cost foreseen by the cost model.
        spent: cost as counted while it ran.
        unit: of these three, such as TFLOPs.
        nfe: denoiser evaluations of all candidates together.
        seconds: wall clock.
        winner: index of the best candidate.
        image: uint8 (H, W, 3), its final image.
        candidates: all of them, in the order of their seeds.
    """

    method: str
    prompt: str
    model: str
    reward: str
    schedule: str
    budget: float
    planned: float
    spent: float
    unit: str
    nfe: int
    seconds: float
    winner: int
    image: np.ndarray = field(repr=False)
    candidates: list[Candidate] = field(repr=False)

    @property
    def seed(self) -> int:
        """Noise seed of the winner."""
        return self.candidates[self.winner].seed

    @property
    def score(self) -> float:
        """Reward of the winner's final image."""
        scores = self.candidates[self.winner].scores
        return scores[max(scores)]

    def row(self, prompt_id: str, oracle: float | None = None) -> dict[str, Any]:
        """This search as a row of ``search/results.parquet``."""
        return {
            "method": self.method,
            "budget": self.budget,
            "prompt_id": prompt_id,
            "reward": self.score,
            "spent": self.spent,
            "unit": self.unit,
            "nfe": self.nfe,
            "n": len(self.candidates),
            "seed": self.seed,
            "oracle": oracle,
            "seconds": self.seconds,
        }

    def trace(self) -> dict[str, Any]:
        """All but the pictures, as plain JSON."""
        return {
            "method": self.method,
            "prompt": self.prompt,
            "model": self.model,
            "reward": self.reward,
            "schedule": self.schedule,
            "seed": self.seed,
            "score": self.score,
            "winner": self.winner,
            "budget": self.budget,
            "planned": self.planned,
            "spent": self.spent,
            "unit": self.unit,
            "nfe": self.nfe,
            "n": len(self.candidates),
            "seconds": self.seconds,
            "candidates": [
                {
                    "seed": candidate.seed,
                    "pruned_at": candidate.pruned_at,
                    "scores": {str(step): score for step, score in candidate.scores.items()},
                }
                for candidate in self.candidates
            ],
        }

    def save(self, folder: Path, *, contact: bool = True) -> None:
        """Write ``best.png`` (with its origin in the PNG's text), ``contact.png``, ``trace.json``.

        The trace comes last: where it stands, the rest is complete. Drawing the contact sheet
        takes up to a second, so that ``contact`` may leave it out.
        """
        from ttsnap.report.pictures import contact_sheet

        folder.mkdir(parents=True, exist_ok=True)
        text = PngInfo()
        for key in ("prompt", "seed", "score", "reward", "model", "method", "schedule"):
            text.add_text(key, str(getattr(self, key)))
        Image.fromarray(self.image).save(folder / "best.png", pnginfo=text)
        if contact:
            contact_sheet(self, folder / "contact.png")
        (folder / "trace.json").write_text(
            json.dumps(self.trace(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def thumbnail(image: np.ndarray) -> np.ndarray:
    """``image`` uint8 (H, W, 3) with its longest side reduced to 128 pixels if it is larger."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.array(picture)
