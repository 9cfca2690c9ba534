"""SANA-Sprint: Sana distilled to 1 to 4 steps, as a consistency model along arcs of a circle."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ttsnap import config
from ttsnap.diffusion.families.sana import TOKENS, SanaSampler


class SanaSprintSampler(SanaSampler):
    """Drives a stock ``SanaSprintPipeline`` with the ``SCMScheduler`` of its checkpoints.

    The guidance scale is an input, 0 and 1 being values like others; there are no negative prompts.
    Where the pipeline keeps latents times ``sigma_data``, here they are what is decoded.
    """

    pipeline_class = "SanaSprintPipeline"
    stochastic_scheduler = config.Scheduler(name="SCMScheduler")

    @property
    def distilled(self) -> bool:
        return True

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt`` (P, L, D) and ``prompt_mask`` (P, L)."""
        prompt, mask = self.pipe.encode_prompt(
            texts,
            device=self.device,
            max_sequence_length=TOKENS,
            complex_human_instruction=self._instruction,
        )
        return {"prompt": prompt, "prompt_mask": mask}

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """v along the circle, from the flow at the point of the line that has the same noise."""
        angle = timestep.expand(len(model_input))
        sigma = torch.sin(angle) / (torch.cos(angle) + torch.sin(angle))
        s = sigma.view(-1, 1, 1, 1)
        radius = torch.sqrt(s**2 + (1 - s) ** 2)
        on_line = model_input * radius
        guidance = torch.full_like(angle, self.guidance_scale).to(prompts["prompt"].dtype)
        dtype = self.denoiser.dtype
        flow = self.denoiser(
            on_line.to(dtype),
            encoder_hidden_states=prompts["prompt"].to(dtype),
            encoder_attention_mask=prompts["prompt_mask"],
            guidance=guidance * self.denoiser.config.guidance_embeds_scale,
            timestep=sigma,
            return_dict=False,
        )[0]
        return (((1 - 2 * s) * on_line + (1 - 2 * s + 2 * s**2) * flow) / radius).float()
