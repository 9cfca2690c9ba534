"""FLUX.2, dev and klein: a transformer over patches of latents that predicts the flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion.defaults import defaults_of
from ttsnap.diffusion.families.packed import PackedSampler
from ttsnap.diffusion.texts import room

TOKENS = 512
"""Length to which the pipelines pad and cut the text, with what their templates add."""


class Flux2Sampler(PackedSampler):
    """Drives a stock ``Flux2Pipeline``, whose text encoder reads an instruction before the prompt.

    Tokens are kept where they are in the picture, (4 C, rows, columns), as the pipeline's call
    takes them. The guidance scale is an input, and there are no negative prompts.
    """

    pipeline_class = "Flux2Pipeline"

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        self.latent_shape = (4 * self.latent_size()[0], *self.patches)

    @property
    def distilled(self) -> bool:
        return True

    @property
    def text_limit(self) -> tuple[Any, int]:
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        messages = format_input([""], self.pipe.system_message)
        (template,) = self.pipe.tokenizer.apply_chat_template(messages, tokenize=False)
        tokenizer = getattr(self.pipe.tokenizer, "tokenizer", self.pipe.tokenizer)
        return tokenizer, TOKENS - len(tokenizer(template, add_special_tokens=False).input_ids)

    @cached_property
    def places(self) -> torch.Tensor:
        shape = torch.empty(1, *self.latent_shape, device="meta")
        return self.pipe._prepare_latent_ids(shape).to(self.device)

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        options = super().timesteps(scheduler)
        if "mu" in options:
            options["mu"] = compute_empirical_mu(math.prod(self.patches), self.steps)
        return options

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, 4 C, rows, columns), drawn like this as in the pipeline."""
        return self._draw(seeds, self.latent_shape)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt`` and, with classifier-free guidance, ``negative``, each (P, L, D)."""
        encoded = [
            self.pipe.encode_prompt(some, self.device, max_sequence_length=TOKENS)[0]
            for some in (texts, negatives)[: 1 + self.guided]
        ]
        return dict(zip(("prompt", "negative"), encoded, strict=False))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        batch, prompt = len(model_input), prompts["prompt"]
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((batch,), self.guidance_scale, device=self.device)
        output = self.denoiser(
            hidden_states=self.pipe._pack_latents(model_input),
            timestep=timestep.expand(batch).to(self.dtype) / 1000,
            guidance=guidance,
            encoder_hidden_states=prompt,
            txt_ids=self.pipe._prepare_text_ids(prompt[:1]).to(self.device, non_blocking=True),
            img_ids=self.places,
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, model_input.shape[2:])

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        mean, variance = (
            values.view(1, -1, 1, 1) for values in (vae.bn.running_mean, vae.bn.running_var)
        )
        deviation = torch.sqrt(variance + vae.config.batch_norm_eps)
        return self.pipe._unpatchify_latents(latents * deviation.to(latents) + mean.to(latents))

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Flux2KleinSampler(Flux2Sampler):
    """Drives a stock ``Flux2KleinPipeline``.

    The base model has classifier-free guidance, here with negative prompts of one's own, in the
    call with empty ones; the distilled one has none.
    """

    pipeline_class = "Flux2KleinPipeline"
    apart = True

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """The call's; of the distilled model 4 steps, which it was distilled for."""
        known: dict[str, Any] = {"steps": 4, "guidance_scale": 1.0}
        return defaults_of(pipe, **known if pipe.config.is_distilled else {})

    @property
    def distilled(self) -> bool:
        return bool(self.pipe.config.is_distilled)

    @property
    def text_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, room(self.pipe.tokenizer, TOKENS, thinking=False)
