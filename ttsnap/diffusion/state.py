"""Values that a sampler works on: encoded prompts, and a batch of candidates on their way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from ttsnap.diffusion import schedulers


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts: tensors whose first dimension is the prompt.

    They are named ``prompt`` and ``prompt_…`` as the family likes. With classifier-free guidance
    each has a counterpart from the negative prompts, ``negative`` and ``negative_…``. What says how
    long texts are may be in main memory while the rest is on a GPU.
    """

    tensors: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def select(self, indices: torch.Tensor) -> Conditioning:
        """Some rows, in the order of ``indices``; a row may be taken more than once."""
        return Conditioning(
            {
                name: rows[indices.to(rows.device, non_blocking=True)]
                for name, rows in self.tensors.items()
            }
        )

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of ``parts``, in order; texts (P, L, …) that are shorter end in zeros."""

        def joined(rows: list[torch.Tensor]) -> torch.Tensor:
            if rows[0].ndim == 1:
                return torch.cat(rows)
            longest, after = max(text.shape[1] for text in rows), (0, 0) * (rows[0].ndim - 2)
            return torch.cat([pad(text, (*after, 0, longest - text.shape[1])) for text in rows])

        names = parts[0].tensors
        return Conditioning({name: joined([p.tensors[name] for p in parts]) for name in names})


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """A batch of candidates somewhere on their way; a value that no step changes.

    Encoded prompts are large, a megabyte of T5 each, and shared by the candidates of a prompt:
    rows of them are gathered when the denoiser is asked, and not before.

    Attributes:
        latents: noisy latents (B, *latent_shape) that enter the next step.
        conditioning: encoded prompts.
        rows: each one's row of ``conditioning``.
        scheduler: diffusers scheduler with the history of all of them.
        index: denoiser evaluations made so far, which is the index of the next step.
        steps: denoiser evaluations of a whole trajectory.
        output: what the denoiser says of ``latents`` with guidance, once it was asked. Branches
            that differ by the noise of this very step share it.
    """

    latents: torch.Tensor
    conditioning: Conditioning
    rows: tuple[int, ...]
    scheduler: Any
    index: int
    steps: int
    output: torch.Tensor | None = None

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.latents)

    @property
    def running(self) -> int:
        """Rows that an evaluation takes, which is what it costs."""
        return len(self.latents)

    @property
    def done(self) -> bool:
        """Whether ``latents`` are the final ones."""
        return self.index == self.steps

    @property
    def prompts(self) -> Conditioning:
        """The row of ``conditioning`` of each one that runs."""
        if self.rows == tuple(range(len(self.conditioning))):
            return self.conditioning
        return self.conditioning.select(torch.tensor(self.rows))

    def all_rows(self) -> State:
        """The same with every row a candidate, so that pieces of an evaluation can be chosen."""
        return self

    def coupled(self) -> AbstractContextManager[None]:
        """What makes candidates depend on each other in an evaluation meanwhile: nothing here."""
        return nullcontext()

    def after_step(self, latents: torch.Tensor, scheduler: Any) -> State:
        """The candidates before the next step, with what this one made of them."""
        return replace(
            self, latents=latents, scheduler=scheduler, index=self.index + 1, output=None
        )

    def select(self, indices: Sequence[int]) -> State:
        """Some candidates only, in this order; one may be taken more than once."""
        chosen = self._indices(indices)
        return replace(
            self,
            latents=self.latents[chosen],
            rows=tuple(self.rows[index] for index in indices),
            scheduler=schedulers.select(self.scheduler, chosen, self.latents.shape),
            output=None if self.output is None else self.output[chosen],
        )

    @classmethod
    def concat(cls, states: Sequence[State]) -> State:
        """The candidates of several states before the same step, all evaluated or none."""
        outputs = [state.output for state in states if state.output is not None]
        distinct = {id(state.conditioning): state.conditioning for state in states}
        offsets, rows = {}, 0
        for key, conditioning in distinct.items():
            offsets[key], rows = rows, rows + len(conditioning)
        parts = list(distinct.values())
        return replace(
            states[0],
            latents=torch.cat([state.latents for state in states]),
            conditioning=parts[0] if len(parts) == 1 else Conditioning.concat(parts),
            rows=tuple(
                offsets[id(state.conditioning)] + row for state in states for row in state.rows
            ),
            scheduler=schedulers.concat(
                [state.scheduler for state in states], [state.latents.shape for state in states]
            ),
            output=torch.cat(outputs) if outputs else None,
        )

    def batches(self, size: int) -> list[range]:
        """Candidates as consecutive batches of at most ``size`` rows."""
        count = len(self)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def _indices(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.latents.device)


def prompt_rows(
    conditioning: Conditioning, candidates: int, rows: Sequence[int] | None
) -> Sequence[int]:
    """Prompt row of each candidate: by default the one there is, or each its own."""
    if rows is None:
        rows = [0] * candidates if len(conditioning) == 1 else range(len(conditioning))
    if len(rows) != candidates:
        raise ValueError(f"{candidates} candidates, but rows of prompts for {len(rows)}")
    return rows


def filled_up(
    latents: torch.Tensor, prompts: Conditioning, sizes: tuple[int, ...]
) -> tuple[torch.Tensor, Conditioning]:
    """Latents (B, …) and their prompts with the last row repeated up to the next of ``sizes``.

    Beyond the largest, and without any, they stay as they are.
    """
    rows = len(latents)
    size = next((size for size in sizes if size >= rows), rows)
    if size == rows:
        return latents, prompts
    chosen = torch.arange(size).clamp(max=rows - 1)
    return latents[chosen.to(latents.device, non_blocking=True)], prompts.select(chosen)
