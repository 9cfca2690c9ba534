"""Searching with a diffusers pipeline that is already loaded, in a script or a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from threading import Event, current_thread, main_thread
from typing import Any, TypeVar, overload

from ttsnap.config import RewardSettings, Scheduler
from ttsnap.errors import UserError
from ttsnap.prompts import parse_prompt
from ttsnap.rewards import Reward, load_reward
from ttsnap.rewards.function import FunctionReward, Scorer
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods import DEFAULT
from ttsnap.searching.request import (
    PICKSCORE,
    check_options,
    check_reward,
    check_scheduler,
    check_whole,
    method_named,
    method_options,
    open_options,
    read_reward,
    read_scheduler,
    shipped_for,
    usual_budget,
)
from ttsnap.searching.result import SearchResult

T = TypeVar("T")
AnyReward = str | Reward | Scorer


@overload
def search(pipe: Any, prompt: str, **settings: Any) -> SearchResult: ...
@overload
def search(pipe: Any, prompt: Sequence[str], **settings: Any) -> list[SearchResult]: ...
def search(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    reward: AnyReward | list[AnyReward] | tuple[AnyReward, ...] = PICKSCORE,
    method: str | None = None,
    budget: str | float | None = None,
    seed: int = 0,
    negative_prompt: str = "",
    num_inference_steps: int | None = None,
    steps: int | Sequence[int] | None = None,
    guidance_scale: float | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    scheduler: Scheduler | str | None = None,
    verifiers: Mapping[int, Reward | tuple[Reward, ...]] | None = None,
    batch_size: int = 8,
    keep_finals: bool = False,
    progress: bool = True,
    **options: Any,
) -> SearchResult | list[SearchResult]:
    """Search for the best image of a prompt; Ctrl-C, or interrupting the cell, keeps the best.

    Args:
        pipe: a diffusers pipeline of any family that ``ttsnap models`` lists; left as it is.
        prompt: what is to be seen; or several, one after the other.
        reward: what judges: ``KIND:PATH`` such as ``clip:yuvalkirstain/PickScore_v1@COMMIT``, a
            :class:`~ttsnap.rewards.base.Reward`, or a function of images and prompts, whose work is
            not charged. Several count alike. By default PickScore, from the hub.
        method: one of those that ``ttsnap methods`` lists; ttsp, or ttsnap with verifiers, by
            default, with a schedule that ships where none is given.
        budget: for each prompt, such as ``400nfe``, ``2000tflops`` or ``60s``; a number is in
            TFLOPs. By default what 8 whole images cost.
        seed: root of the candidates' noise seeds; one seed, one result.
        negative_prompt: what is not to be seen.
        steps: a whole number is ``num_inference_steps``, as the command calls it; a list is the
            method's own setting of that name.
        guidance: ``guidance_scale``, as the command calls it.
        num_inference_steps: denoising steps; this and the next four are the pipeline's own by
            default, and mean what they mean in its call.
        guidance_scale: of classifier-free guidance.
        height: pixels.
        width: pixels.
        num_frames: of a video.
        scheduler: class name, with options as ``DDIMScheduler,eta=1``; the pipeline's own by
            default. A method that searches the noise of the steps takes one that adds noise in
            place of one that does not.
        verifiers: step index -> what looks at the estimates of that step in place of the rewards,
            such as their NARF checkpoints; for several rewards a tuple in their order.
        batch_size: candidates denoised at once.
        keep_finals: whether ``finals`` of the result holds every finished image.
        progress: whether to show it.
        **options: the method's own settings.

    Returns:
        The best image, ``found.pil``, and how it was found; ``ttsnap.save(found, folder)`` writes
        all of it. Of several prompts a list, up to the one that was interrupted.

    Raises:
        UserError: a name is unknown, a value is no good, or the budget does not afford one image.
    """
    from rich.console import Console

    from ttsnap.diffusion import family_of, from_pipeline
    from ttsnap.searching.display import SearchView, interruptible, shown
    from ttsnap.searching.searcher import Searcher

    check_whole("seed", seed, 0)
    check_whole("batch_size", batch_size, 1)
    if isinstance(steps, int):
        num_inference_steps = _one_of(steps, num_inference_steps, "steps, num_inference_steps")
    elif steps is not None:
        options = options | {"steps": list(steps)}
    guidance_scale = _one_of(guidance, guidance_scale, "guidance, guidance_scale")
    how = method_named(method or ("ttsnap" if verifiers else DEFAULT))
    unplanned = how.prunes and "schedule" not in options
    chosen = open_options(how, options)
    spend = None if budget is None else Budget.parse(str(budget))
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    asked = [parse_prompt({"prompt": one, "negative_prompt": negative_prompt}) for one in texts]
    given = reward if isinstance(reward, list | tuple) else [reward]
    named = [_named(one) if isinstance(one, str) else one for one in given]
    if isinstance(scheduler, str):
        scheduler = read_scheduler(scheduler)
    sampling = {
        "steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "height": height,
        "width": width,
        "frames": num_frames,
        "scheduler": scheduler and scheduler.model_dump(),
    }
    sampler = from_pipeline(pipe, {key: one for key, one in sampling.items() if one is not None})
    check_options(chosen, sampler.steps)
    if scheduler is not None:
        check_scheduler(how, sampler)
    searcher = Searcher(
        sampler,
        [_reward(one, str(sampler.device)) for one in named],
        verifiers={
            step: one if isinstance(one, tuple) else (one,)
            for step, one in (verifiers or {}).items()
        },
        batch_size=batch_size,
        keep_finals=keep_finals,
    )
    costs = searcher.prices(spend.unit if spend else "TFLOPs")
    spend = spend or usual_budget(costs)
    if unplanned:
        judges = [one[1] if isinstance(one, tuple) else None for one in named]
        shipped = shipped_for(family_of(pipe), judges, sampler, costs, spend)
        chosen = method_options(how, {"schedule": str(shipped.schedule), **options})
        if progress:
            Console().print(shipped.notice, style="dim", highlight=False)
    searcher.expect(asked)
    stop, found = Event(), []
    for one in asked:
        heading = f"{how.name}, {', '.join(searcher.names)}, seed {seed}"
        view = SearchView(one.text, heading, sampler.steps)
        watching = shown(view, Console()) if progress else nullcontext()
        # Signals reach only the main thread.
        alone = current_thread() is main_thread()
        stopping = interruptible(stop, view) if alone else nullcontext()
        with watching, stopping:
            found.append(
                searcher.run(
                    one,
                    how,
                    chosen,
                    budget=spend,
                    seed=seed,
                    observe=view.observe,
                    cancelled=stop.is_set,
                )
            )
        if stop.is_set():
            break
    return found[0] if isinstance(prompt, str) else found


def _one_of(one: T | None, other: T | None, names: str) -> T | None:
    if one is not None and other is not None:
        raise UserError(f"{names}: two names of one setting; give one of them")
    return other if one is None else one


@lru_cache(4)
def _loaded(name: str, settings: str, device: str) -> Reward:
    return load_reward(RewardSettings.model_validate_json(settings), name=name, device=device)


def _named(text: str) -> tuple[str, RewardSettings]:
    name, given = read_reward(text)
    settings = RewardSettings(**given)
    check_reward(settings, name)
    return name, settings


def _reward(given: tuple[str, RewardSettings] | Reward | Scorer, device: str) -> Reward:
    if isinstance(given, tuple):
        name, settings = given
        # Calls that name the same one share it.
        return _loaded(name, settings.model_dump_json(), device)
    if isinstance(given, Reward):
        return given
    return FunctionReward(given)
