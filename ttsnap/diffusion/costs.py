"""What a candidate costs a sampler: counted on shapes alone, or timed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ttsnap.diffusion import schedulers
from ttsnap.diffusion.backoff import Backoff
from ttsnap.diffusion.coupled import CoupledState
from ttsnap.diffusion.flops import tflops
from ttsnap.diffusion.loading import no_deprecations, no_warnings
from ttsnap.diffusion.quantization import is_plain
from ttsnap.diffusion.state import Conditioning, State

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler

Clock = Callable[[Callable[[], object]], float]
"""Runs a call and says what it took, such as :func:`ttsnap.diffusion.flops.seconds`."""


def costs(sampler: Sampler, clock: Clock | None = None, batch: int = 1) -> dict[str, float]:
    """Costs of one candidate.

    Args:
        sampler: draws it.
        clock: measures a call that runs, as :func:`ttsnap.diffusion.flops.seconds` does; by
            default TFLOPs are counted, on shapes alone and in no memory.
        batch: candidates that run together, or as many as memory allows; the cost is their share.

    Returns:
        ``denoise``, an evaluation with its guidance, on average over the steps of a trajectory
        if two denoisers share it, and, on average over these and the images of a group, what
        NegToMe adds to it; ``decode``; and ``preview``, if the model has a preview decoder.

    Raises:
        UserError: memory runs out with a single candidate.
    """
    conditioning = sampler.priced_text()
    stages, measure = sampler.stages, clock or tflops
    decode: Callable[[torch.Tensor], object] = sampler.decode
    preview: Callable[[torch.Tensor], object] = sampler.preview
    if clock is None:
        stages, batch = [(without_weights(stage), steps) for stage, steps in stages], 1
        decode, preview = stages[0][0].reconstruct, stages[0][0].reconstruct_preview
    worker = stages[0][0]
    backoff = Backoff(batch)

    def price(call: Callable[[State], object]) -> float:
        """Of a candidate in the largest batch that memory allows."""

        def share(some: range) -> float:
            state = sampler.start(conditioning, some)
            return measure(partial(call, state)) / len(some)

        return backoff.largest(share, batch)

    prices = {
        "denoise": sum(
            steps / sampler.steps * price(partial(_ask, stage)) for stage, steps in stages
        ),
        "decode": price(lambda state: decode(state.latents.to(worker.device))),
    }
    if sampler.previewer is not None:
        prices["preview"] = price(lambda state: preview(state.latents.to(worker.device)))
    if sampler.negtome is not None and worker.coupling is not None:
        coupling, size = worker.coupling, sampler.negtome.group

        def added(some: range) -> float:
            seeds = range(len(some) + 1)
            group = sampler.start(conditioning, seeds, None, [0] * len(seeds))
            assert isinstance(group, CoupledState)
            tied = replace(group, coupling=coupling)
            return coupling.cost(tied, partial(_ask, worker), measure) / len(some)

        # All of a group are pushed but for its reference.
        prices["denoise"] += Backoff(size - 1).largest(added, size - 1) * (size - 1) / size
    return prices


def _ask(sampler: Sampler, state: State) -> torch.Tensor:
    """What the denoiser of ``sampler`` says of a state that may be of its twin."""
    timestep, model_input = schedulers.model_input(state.scheduler, state.index, state.latents)
    prompts = {name: rows.to(sampler.device) for name, rows in state.prompts.tensors.items()}
    with state.coupled():
        return sampler.denoise(model_input.to(sampler.device), timestep, Conditioning(prompts))


def without_weights(sampler: Sampler) -> Sampler:
    """A twin whose networks are on torch's meta device, which knows shapes and holds no numbers.

    It takes no memory to speak of and computes nothing; the sampler is left as it is.
    """
    meta = torch.device("meta")
    twin = copy.copy(sampler)
    for name, value in vars(sampler).items():
        if isinstance(value, torch.Tensor):
            setattr(twin, name, value.to(meta))
        elif isinstance(getattr(type(sampler), name, None), cached_property):
            delattr(twin, name)  # made of the networks that hold numbers
    twin.device, twin.autocast, twin.pipe = meta, None, copy.copy(sampler.pipe)
    for name in ("unet", "transformer", "vae"):
        if (module := getattr(sampler.pipe, name, None)) is not None:
            vars(twin.pipe)[name] = _on_shapes(module, meta)
    if sampler.previewer is not None:
        twin.previewer = copied(sampler.previewer, lambda tensor: tensor.to(meta))
    if hasattr(twin.denoiser, "reset_attention_backend"):
        with no_warnings():  # of an experimental feature
            twin.denoiser.reset_attention_backend()
    twin.couple()
    return twin


def _on_shapes(module: Any, meta: torch.device) -> Any:
    """A copy of a module on the meta device; of packed weights one as before, by its config."""
    if is_plain(module):
        return copied(module, lambda tensor: tensor.to(meta))
    settings = {name: value for name, value in module.config.items() if "quantiz" not in name}
    with meta, no_deprecations():
        return type(module).from_config(settings).to(module.dtype).eval().requires_grad_(False)


def copied(module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of a module with each of its tensors changed; offloading is not copied."""
    from accelerate.hooks import ModelHook, remove_hook_from_module

    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(change(parameter.detach()), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = change(buffer)
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                memo[id(value)] = change(value)
            elif name == "_hf_hook":
                memo[id(value)] = ModelHook()
    return remove_hook_from_module(copy.deepcopy(module, memo), recurse=True)
