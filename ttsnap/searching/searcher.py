"""The one place that builds a search."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from ttsnap.config import Costs, Sampling, Scheduler
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.backoff import Backoff
from ttsnap.diffusion.sampler import Conditioning, Sampler
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt, seed_of
from ttsnap.rewards.base import Reward
from ttsnap.schedule import CostModel
from ttsnap.searching.budget import Budget
from ttsnap.searching.executor import Backoffs, Executor, Interrupted
from ttsnap.searching.pricing import cost_model
from ttsnap.searching.request import by_rank, method_named, method_options
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
        model: str = "",
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
            model: name of the model, for the records.
            batch_size: candidates denoised at once, fewer where memory runs out; changes images by
                rounding at most.
            keep_finals: whether results keep every final image.

        Raises:
            UserError: a reward sums ranks within a batch.
        """
        for reward in rewards:
            if getattr(reward, "by", None) == "rank":
                members = [member.reward.name for member in getattr(reward, "members", ())]
                raise UserError(by_rank(reward.name, members))
        self.sampler = sampler
        self.rewards = tuple(rewards)
        self.names = distinct([reward.name for reward in rewards])
        self.verifiers = dict(verifiers or {})
        self._known = costs if isinstance(costs, Costs) else Costs()
        self._prices: dict[str, CostModel] = {}
        if isinstance(costs, CostModel):
            self._prices[costs.unit] = costs
        self._model, self._batch_size, self._keep_finals = model, batch_size, keep_finals
        self._backoffs = Backoffs()
        self._expected: list[tuple[str, str]] = []
        self._encoded: dict[tuple[str, str], Conditioning] = {}
        self._noisy_steps: dict[int, tuple[int, ...]] = {}
        self._noticed = False

    def prices(self, unit: str) -> CostModel:
        """Prices in a unit of budgets, in which an image is scored by all rewards."""
        if unit not in self._prices:
            self._prices[unit] = cost_model(
                unit, self._known, self.sampler, self.rewards, self._batch_size
            )
        return self._prices[unit]

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
        return self._noisy if method.needs_noise else self.sampler

    def scheduler_for(self, method: Method) -> Scheduler | None:
        """What a method samples with in place of the sampler's own scheduler, if it has to."""
        if self.sampler_for(method) is self.sampler:
            return None
        return noisy_scheduler(self.sampler)

    @cached_property
    def _noisy(self) -> Sampler:
        return self.sampler if self.sampler.stochastic else with_noise(self.sampler)

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
            noisy_steps=self._noisy_steps_of(sampler),
            conditioning=self._conditioning(prompt, sampler.device),
            prompt=prompt.text,
            rewards=self.rewards,
            names=self.names,
            verifiers=self.verifiers if how.verified else {},
            costs=self.prices(budget.unit),
            budget=budget.value,
            seed_of=partial(seed_of, seed, prompt.id),
            model=self._model,
            batch_size=self._batch_size,
            keep_finals=self._keep_finals,
            observe=observe,
            cancelled=cancelled,
        )
        run = Executor(task, self._backoffs)
        if how.needs_noise and not run.noisy:
            raise UserError(
                f"method {how.name}: searches the noise of the steps, but none of the scheduler's "
                "has any effect"
            )
        try:
            how.search(run, task.options)
        except Interrupted as interruption:
            run.finish_one(interruption.cohort)
        return run.result()

    def _noisy_steps_of(self, sampler: Sampler) -> tuple[int, ...]:
        if id(sampler) not in self._noisy_steps:
            self._noisy_steps[id(sampler)] = noisy_steps(sampler)
        return self._noisy_steps[id(sampler)]

    def _notice(self, method: Method) -> None:
        """Say once that NegToMe is left out, which a sampler made to add noise says itself."""
        acts = method.negtome or method.needs_noise
        if self.sampler.negtome is not None and not acts and not self._noticed:
            self._noticed = True
            logger.warning("negative token merging is left out: it does not act in %s", method.name)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` with a number added where one was there before: a, b, a 2."""
    seen = Counter[str]()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return tuple(result)


def _moved(texts: Conditioning, device: Any) -> Conditioning:
    return replace(texts, tensors={name: rows.to(device) for name, rows in texts.tensors.items()})


# To be replaced by Sampler.with_noise() and Sampler.noisy_steps.

DDIM = Scheduler(name="DDIMScheduler", options={"eta": 1.0})

CHURN = Scheduler(
    name="EDMHeunScheduler",
    options={"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003},
)
"""For EDM: its values for ImageNet-64 (Karras et al. 2022, table 5)."""


def noisy_scheduler(sampler: Sampler) -> Scheduler:
    """What :func:`with_noise` samples with."""
    return CHURN if schedulers.matches_edm(sampler._scheduler) else DDIM


def with_noise(sampler: Sampler) -> Sampler:
    """The same sampler with a scheduler that adds noise, and without NegToMe."""
    if sampler.negtome is not None:
        logger.warning("negative token merging is left out, for steps add noise of their own")
    sampling = Sampling(
        steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        height=sampler.height,
        width=sampler.width,
        frames=sampler.frames,
        scored_frames=sampler.scored_frames,
        scheduler=noisy_scheduler(sampler),
    )
    noisy = type(sampler)(sampler.pipe, sampling)
    noisy.previewer = sampler.previewer
    noisy.release_text_encoders = sampler.release_text_encoders
    noisy.decodes_aside = sampler.decodes_aside
    return noisy


def noisy_steps(sampler: Sampler) -> tuple[int, ...]:
    """Step indices at which other noise gives other latents."""
    if not sampler.stochastic:
        return ()
    noise = sampler.noise([0])
    row = torch.tensor([0])
    nothing = Conditioning({"prompt": row})
    state = sampler.start_from(nothing, noise)
    found = []
    while not state.done:
        evaluated = replace(state, output=torch.zeros_like(noise))
        state, other = (sampler.step(evaluated, some)[0] for some in (noise, -noise))
        if not torch.equal(state.latents, other.latents):
            found.append(evaluated.index)
    return tuple(found)
