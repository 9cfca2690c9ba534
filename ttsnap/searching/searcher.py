"""The one place that builds a search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ttsnap.config import Costs, Model
from ttsnap.diffusion.backoff import Backoff
from ttsnap.diffusion.sampler import Conditioning, Sampler
from ttsnap.diffusion.sources import described
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt, seed_of
from ttsnap.rewards.base import Reward
from ttsnap.rewards.function import searchable
from ttsnap.schedule import CostModel
from ttsnap.searching.budget import Budget
from ttsnap.searching.executor import Backoffs, Executor, Interrupted
from ttsnap.searching.pricing import cost_model
from ttsnap.searching.record import generator_of
from ttsnap.searching.request import method_named, method_options
from ttsnap.searching.result import SearchResult
from ttsnap.searching.task import Progress, SearchTask

if TYPE_CHECKING:
    from ttsnap.searching.methods import Method, MethodOptions

logger = logging.getLogger(__name__)

TEXTS = 64  # prompts that are encoded at once


class Searcher:
    """Searches for images of prompts, one after the other, and keeps what outlives a prompt.

    These are prices, encoded texts (in main memory), what was learnt about how much fits into
    memory, and a sampler that adds noise, for methods that need one.

    Attributes:
        sampler: draws the images.
        rewards: score them.
        names: of the rewards; where two have the same, the later ones are numbered.
        verifiers: step index -> what looks at the estimates of that step in place of the rewards,
            in their order: their NARF checkpoints.
    """

    def __init__(
        self,
        sampler: Sampler,
        rewards: Sequence[Reward],
        *,
        verifiers: Mapping[int, tuple[Reward, ...]] | None = None,
        costs: Costs | CostModel = Costs(),
        model: Model | None = None,
        batch_size: int = 64,
        keep_finals: bool = False,
    ) -> None:
        """
        Args:
            sampler: draws the images. A method that searches the noise of the steps takes it as it
                is if it adds noise, else its ``with_noise``.
            rewards: score final images and pick the winner; several by the sum of their ranks.
            verifiers: see above; none by default.
            costs: prices that are known, the others are measured; or all prices in their unit.
            model: that the sampler's pipeline was loaded as, for the records; None where it was not
                loaded by ttsnap, and only its path is known.
            batch_size: candidates denoised at once, fewer where memory runs out; changes images by
                rounding at most.
            keep_finals: whether results keep every final image.

        Raises:
            UserError: a reward sums ranks within a batch.
        """
        self.sampler = sampler
        self.rewards = searchable(rewards)
        self.names = tuple(reward.name for reward in self.rewards)
        self.verifiers = dict(verifiers or {})
        self._known = costs if isinstance(costs, Costs) else Costs()
        self._prices: dict[str, CostModel] = {}
        if isinstance(costs, CostModel):
            self._prices[costs.unit] = costs
        self._model, self._batch_size, self._keep_finals = model, batch_size, keep_finals
        self._backoffs = Backoffs()
        self._expected: list[tuple[str, str]] = []
        self._encoded: dict[tuple[str, str], Conditioning] = {}
        self._noticed = False
        self._compiled: set[tuple[Any, ...]] = set()

    def prices(self, unit: str) -> CostModel:
        """Prices in a unit of budgets, in which an image is scored by all rewards."""
        if unit not in self._prices:
            self._prices[unit] = cost_model(
                unit, self._known, self.sampler, self.rewards, self._batch_size
            )
        known = self._prices[unit]
        return known if self.sampler.previewer is not None else replace(known, preview=None)

    def expect(self, prompts: Sequence[Prompt]) -> None:
        """Say which prompts will be searched, in order, so that many are encoded at once.

        Text encoders that wait in main memory are then moved once for all of them.
        """
        self._expected = list(dict.fromkeys((one.text, one.negative) for one in prompts))

    def _conditioning(self, prompt: Prompt, device: Any) -> Conditioning:
        pair = prompt.text, prompt.negative
        if pair not in self._encoded:
            pairs = [pair]
            if pair in self._expected:
                start = self._expected.index(pair)
                pairs = self._expected[start : start + TEXTS]
            self._encoded = {}  # the block before has had its turn
            Backoff(TEXTS).map(lambda rows: self._encode(pairs[rows.start : rows.stop]), len(pairs))
        return _moved(self._encoded[pair], device)

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> None:
        texts, negatives = ([pair[part] for pair in pairs] for part in (0, 1))
        encoded = _moved(self.sampler.encode(texts, negatives), "cpu")
        for row, pair in enumerate(pairs):
            self._encoded[pair] = encoded.select(torch.tensor([row]))

    def sampler_for(self, method: Method) -> Sampler:
        """The sampler that a method draws images with."""
        return self.sampler.with_noise() if method.needs_noise else self.sampler

    def run(
        self,
        prompt: Prompt,
        method: str | Method,
        options: MethodOptions | None = None,
        *,
        budget: Budget,
        seed: int = 0,
        observe: Callable[[Progress], None] = lambda progress: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> SearchResult:
        """Search for the best image of a prompt.

        Args:
            prompt: what is to be seen.
            method: one of ``METHODS``, or its name.
            options: of that method; None is their defaults.
            budget: what may be spent.
            seed: root of the candidates' noise seeds; one seed, one result.
            observe: called with the :class:`Progress`.
            cancelled: asked before every batch. Once it says yes, the best so far is returned; if
                no image is finished by then, one is.

        Raises:
            UserError: there is no such method, an option that it needs is missing, or the budget
                does not afford one image.
            UnscoredError: none of the final images could be scored.
        """
        how = method_named(method) if isinstance(method, str) else method
        sampler = self.sampler_for(how)
        self._notice(how)
        task = SearchTask(
            method=how.name,
            options=method_options(how, {}) if options is None else options,
            sampler=sampler,
            conditioning=self._conditioning(prompt, sampler.device),
            prompt=prompt.text,
            negative_prompt=prompt.negative,
            rewards=self.rewards,
            names=self.names,
            verifiers=self.verifiers if how.verified else {},
            costs=self.prices(budget.unit),
            budget=budget.value,
            seed_of=partial(seed_of, seed, prompt.id),
            generator=generator_of(sampler, self._model),
            model=described(self._model) if self._model else str(sampler.pipe.name_or_path or ""),
            batch_size=self._batch_size,
            keep_finals=self._keep_finals,
            observe=observe,
            cancelled=cancelled,
        )
        if budget.unit == "seconds":
            self._compile(sampler, task.conditioning)
        run = Executor(task, self._backoffs)
        if how.needs_noise and not run.noisy:
            raise UserError(
                f"method {how.name}: searches the noise of the steps, but none of the scheduler's "
                "has any effect"
            )
        sampler.finite.forget()
        try:
            how.search(run, task.options)
        except Interrupted as interruption:
            run.finish_one(interruption.cohort)
        return run.result()

    def _compile(self, sampler: Sampler, texts: Conditioning) -> None:
        """Evaluate a batch of each size of a compiled sampler, before a clock begins to run.

        That compiles, which as the loading of a model is no part of a search. Texts of another
        shape are compiled for again.
        """
        shapes = (sampler, *(rows.shape for rows in texts.tensors.values()))
        if shapes not in self._compiled:
            for size in sampler.batch_sizes:
                self._backoffs.evaluations.largest(
                    lambda some: sampler.evaluate(sampler.start(texts, some, rows=[0] * len(some))),
                    size,
                )
            self._compiled.add(shapes)

    def _notice(self, method: Method) -> None:
        """Say once that NegToMe is left out, which a sampler made to add noise says itself."""
        acts = method.negtome or method.needs_noise
        if self.sampler.negtome is not None and not acts and not self._noticed:
            self._noticed = True
            logger.warning("negative token merging is left out: it does not act in %s", method.name)


def _moved(texts: Conditioning, device: Any) -> Conditioning:
    return replace(texts, tensors={name: rows.to(device) for name, rows in texts.tensors.items()})
