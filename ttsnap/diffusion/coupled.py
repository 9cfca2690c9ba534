"""Candidates that NegToMe ties to a reference, for as long as it acts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from itertools import accumulate, groupby
from typing import Any

import torch

from ttsnap.diffusion.negtome import NegToMe
from ttsnap.diffusion.state import State
from ttsnap.errors import UserError


@dataclass(frozen=True, eq=False)
class Coupling:
    """When and how candidates depend on their references.

    Attributes:
        pusher: pushes images apart in the denoiser.
        steps: step indices at whose evaluation it acts, in order.
        passes: how many rows of a batch an evaluation has for each candidate: 2 if the halves of
            classifier-free guidance run as one.
    """

    pusher: NegToMe
    steps: tuple[int, ...]
    passes: int

    @classmethod
    def over(cls, timesteps: Sequence[float], pusher: NegToMe, passes: int) -> Coupling:
        """That at those of a trajectory's timesteps at which images are to be pushed.

        Raises:
            UserError: there is none.
        """
        steps = tuple(step for step, time in enumerate(timesteps) if pusher.acts(time))
        if not steps:
            raise UserError(
                f"sampling.negtome: none of the {len(timesteps)} timesteps, {timesteps[0]:g} to "
                f"{timesteps[-1]:g}, lies between t_start {pusher.settings.t_start:g} and t_end "
                f"{pusher.settings.t_end:g}"
            )
        return cls(pusher, steps, passes)

    def rows(
        self, seeds: Sequence[int], rows: Sequence[int], references: Sequence[int]
    ) -> tuple[list[int], list[int], tuple[int, ...]]:
        """Who has to run so that candidates have their references.

        Args:
            seeds: of the candidates.
            rows: prompt row of each.
            references: seed of each one's reference, of the same prompt row.

        Returns:
            Seeds and prompt rows of all that run, first the candidates, and the place of each
            one's reference among them.
        """
        everyone = list(zip(rows, seeds, references, strict=True))
        places = {
            (row, seed): place
            for place, (row, seed, reference) in enumerate(everyone)
            if seed == reference
        }
        extra: list[tuple[int, int]] = []
        for row, _, reference in everyone:
            if (row, reference) not in places:
                places[row, reference] = len(seeds) + len(extra)
                extra.append((row, reference))
        referred = [(row, reference) for row, _, reference in everyone] + extra
        return (
            [*seeds, *(reference for _, reference in extra)],
            [*rows, *(row for row, _ in extra)],
            tuple(places[key] for key in referred),
        )

    def cost(
        self, group: CoupledState, ask: Callable[[State], object], measure: Callable[..., float]
    ) -> float:
        """What pushing adds to the cost of a group's evaluation, on average over its steps.

        Args:
            group: before its first step.
            ask: the evaluation.
            measure: what a call costs.
        """
        always = replace(group, coupling=replace(self, steps=(0,)))
        added = measure(lambda: ask(always)) - measure(lambda: ask(group.uncoupled(all_rows=True)))
        return added * len(self.steps) / group.steps


@dataclass(frozen=True, eq=False, kw_only=True)
class CoupledState(State):
    """Candidates with their references, until no later evaluation needs these.

    Attributes:
        coupling: what ties them.
        references: row of each one's reference.
        extra: how many of the last rows are no candidates, but references of some that go on
            without being chosen themselves, or are in another batch.
    """

    coupling: Coupling
    references: tuple[int, ...]
    extra: int

    @classmethod
    def of(cls, state: State, coupling: Coupling, references: Sequence[int], extra: int) -> State:
        """A state whose last ``extra`` rows are no candidates, with its references."""
        tied = {"coupling": coupling, "references": tuple(references), "extra": extra}
        return cls(**(_plain(state) | tied))

    def __len__(self) -> int:
        return len(self.latents) - self.extra

    def uncoupled(self, all_rows: bool = False) -> State:
        """The candidates, or all rows, as they are without their references."""
        plain = State(**_plain(self))
        return plain if all_rows or not self.extra else plain.select(range(len(self)))

    def all_rows(self) -> State:
        return replace(self, extra=0)

    def coupled(self) -> AbstractContextManager[None]:
        return self._pushed() if self.index in self.coupling.steps else nullcontext()

    @contextmanager
    def _pushed(self) -> Iterator[None]:
        rows = [
            start * self.running + row
            for start in range(self.coupling.passes)
            for row in self.references
        ]
        text_tokens = self.conditioning.tensors["prompt"].shape[1]
        with self.coupling.pusher.between(rows, text_tokens):
            yield

    def after_step(self, latents: torch.Tensor, scheduler: Any) -> State:
        following = replace(
            self, latents=latents, scheduler=scheduler, index=self.index + 1, output=None
        )
        if following.index > self.coupling.steps[-1]:
            return following.uncoupled()
        return following

    def select(self, indices: Sequence[int]) -> State:
        """Some candidates only; a reference that they still need runs on as an extra row."""
        places = {row: place for place, row in enumerate(indices)}
        rows = list(indices)
        for row in indices:
            reference = self.references[row]
            if reference not in places:
                places[reference] = len(rows)
                rows.append(reference)
        return CoupledState.of(
            self.uncoupled(all_rows=True).select(rows),
            self.coupling,
            [places[self.references[row]] for row in rows],
            len(rows) - len(indices),
        )

    @classmethod
    def concat(cls, states: Sequence[State]) -> State:
        """The candidates of several coupled states, with references that none lacks."""
        tied = [state for state in states if isinstance(state, CoupledState)]
        edges = accumulate((state.running for state in tied), initial=0)
        placed = list(zip(edges, tied, strict=False))
        whole = CoupledState.of(
            State.concat([state.uncoupled(all_rows=True) for state in tied]),
            tied[0].coupling,
            [start + reference for start, state in placed for reference in state.references],
            0,
        )
        return whole.select([start + row for start, state in placed for row in range(len(state))])

    def batches(self, size: int) -> list[range]:
        """Consecutive batches of at most ``size`` rows.

        Candidates with a common reference stay together where they are neighbours and not too
        many, so that it need not run in several batches.
        """
        alone = self.references
        together = [list(rows) for _, rows in groupby(range(len(self)), alone.__getitem__)]
        ranges, first, load = [], 0, 0
        for rows in together:
            needed = len({*rows, *(alone[row] for row in rows)})
            if load and load + needed > size:
                ranges.append(range(first, rows[0]))
                first, load = rows[0], 0
            load += needed
        ranges.append(range(first, len(self)))
        return [
            range(begin, min(begin + size, some.stop))
            for some in ranges
            for begin in range(some.start, some.stop, size)
        ]


def _plain(state: State) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in fields(State)}
