"""Searching with a diffusers pipeline that is already loaded, in a script or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Event, current_thread, main_thread
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsnap.config import RewardSettings, Sampling, Scheduler
from ttsnap.prompts import parse_prompt
from ttsnap.rewards import Reward, load_reward
from ttsnap.searching.budget import Budget
from ttsnap.searching.request import (
    check_options,
    check_reward,
    check_scheduler,
    method_named,
    method_options,
    read_reward,
)
from ttsnap.searching.result import SearchResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scorer = Callable[["NDArray[np.uint8]", Sequence[str]], "NDArray[np.generic]"]
"""Takes images (B, H, W, 3) and B prompts, gives B numbers, larger is better."""

AnyReward = str | Reward | Scorer


def search(
    pipe: Any,
    prompt: str,
    *,
    reward: AnyReward | list[AnyReward] | tuple[AnyReward, ...],
    method: str = "best-of-n",
    budget: str | float = "400nfe",
    seed: int = 0,
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    scheduler: Scheduler | None = None,
    verifiers: Mapping[int, Reward | tuple[Reward, ...]] | None = None,
    batch_size: int = 8,
    keep_finals: bool = False,
    progress: bool = True,
    **options: Any,
) -> SearchResult:
    """Search for the best image of a prompt; Ctrl-C, or interrupting the cell, keeps the best.

    Args:
        pipe: a diffusers pipeline of any family that ``ttsnap models`` lists; left as it is.
        prompt: what is to be seen.
        reward: what judges: ``KIND:PATH`` such as ``clip:yuvalkirstain/PickScore_v1@COMMIT``, a
            :class:`~ttsnap.rewards.base.Reward`, or a function of images and prompts, whose work is
            not charged. Several count alike.
        method: one of those that ``ttsnap methods`` lists.
        budget: such as ``400nfe``, ``2000tflops`` or ``60s``; a number is in TFLOPs.
        seed: root of the candidates' noise seeds; one seed, one result.
        negative_prompt: what is not to be seen.
        steps: denoising steps; this and the next four are the pipeline's own by default.
        guidance_scale: of classifier-free guidance.
        height: pixels.
        width: pixels.
        frames: of a video.
        scheduler: the pipeline's own by default; a method that searches the noise of the steps
            takes one that adds noise in place of one that does not.
        verifiers: step index -> what looks at the estimates of that step in place of the rewards,
            such as their NARF checkpoints; for several rewards a tuple in their order.
        batch_size: candidates denoised at once.
        keep_finals: whether ``finals`` of the result holds every finished image.
        progress: whether to show it.
        **options: the method's own settings.

    Returns:
        The best image and how it was found; ``ttsnap.save(found, folder)`` writes all of it.

    Raises:
        UserError: a name is unknown, a value is no good, or the budget does not afford one image.
    """
    from rich.console import Console

    from ttsnap.diffusion import family_of, from_pipeline, sampler_class
    from ttsnap.searching.display import SearchView, interruptible, shown
    from ttsnap.searching.searcher import Searcher

    how = method_named(method)
    chosen = method_options(how, options)
    spend = Budget.parse(str(budget))
    asked = parse_prompt({"prompt": prompt, "negative_prompt": negative_prompt})
    given = reward if isinstance(reward, list | tuple) else [reward]
    named = [_named(one) if isinstance(one, str) else one for one in given]
    family = family_of(pipe)
    own = sampler_class(family).defaults(pipe)
    sampling = Sampling(
        steps=steps or own.steps,
        guidance_scale=guidance_scale or own.guidance_scale,
        height=height or own.height,
        width=width or own.width,
        frames=frames or own.frames,
        scheduler=scheduler or own.scheduler,
    )
    check_options(chosen, sampling.steps)
    sampler = from_pipeline(pipe, sampling)
    if scheduler is not None:
        check_scheduler(how, sampler)
    searcher = Searcher(
        sampler,
        [_reward(one, str(sampler.device)) for one in named],
        verifiers={
            step: one if isinstance(one, tuple) else (one,)
            for step, one in (verifiers or {}).items()
        },
        model=pipe.name_or_path,
        batch_size=batch_size,
        keep_finals=keep_finals,
    )
    stop = Event()
    view = SearchView(prompt, f"{method}, {', '.join(searcher.names)}, seed {seed}", sampler.steps)
    watching = shown(view, Console()) if progress else nullcontext()
    # Signals reach only the main thread.
    stopping = interruptible(stop, view) if current_thread() is main_thread() else nullcontext()
    with watching, stopping:
        return searcher.run(
            asked,
            how,
            chosen,
            budget=spend,
            seed=seed,
            observe=view.observe,
            cancelled=stop.is_set,
        )


@dataclass
class _Function:
    """A function as a reward."""

    name: str
    function: Scorer
    scale: str = "that of the function"

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(self.function(images, prompts), np.float32)

    def tflops(self, height: int, width: int) -> float:
        return 0.0


def _named(text: str) -> tuple[str, RewardSettings]:
    name, given = read_reward(text)
    settings = RewardSettings(**given)
    check_reward(settings, name)
    return name, settings


def _reward(given: tuple[str, RewardSettings] | Reward | Scorer, device: str) -> Reward:
    if isinstance(given, tuple):
        name, settings = given
        return load_reward(settings, name=name, device=device)
    if isinstance(given, Reward):
        return given
    return _Function(getattr(given, "__name__", "reward"), given)
