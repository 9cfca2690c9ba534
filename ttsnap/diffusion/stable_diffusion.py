"""Stable Diffusion 1 and 2 and pipelines of their shape: a U-Net with classifier-free guidance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion.loading import no_warnings
from ttsnap.diffusion.sampler import Conditioning, Sampler
from ttsnap.errors import UserError

logger = logging.getLogger(__name__)


class StableDiffusionSampler(Sampler):
    """Drives a stock ``StableDiffusionPipeline``; run to the end it gives the pipeline's pixels.

    The pipeline itself is left as it is, also its scheduler.
    """

    pipeline_class = "StableDiffusionPipeline"

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        """
        Args:
            pipe: a ``diffusers.StableDiffusionPipeline``.
            sampling: steps, guidance, size in pixels and scheduler.

        Raises:
            UserError: height or width is no multiple of 8, or the scheduler is not possible.
        """
        if sampling.height % 8 or sampling.width % 8:
            size = f"{sampling.height}x{sampling.width}"
            raise UserError(f"sampling: height and width must be multiples of 8, not {size}")
        super().__init__(pipe, sampling)
        self.dtype = pipe.unet.dtype
        factor = pipe.vae_scale_factor
        height, width = sampling.height // factor, sampling.width // factor
        self.latent_shape = (pipe.unet.config.in_channels, height, width)
        self._guidance_scale = sampling.guidance_scale
        # Guidance-distilled U-Nets take the scale as an input instead of a second evaluation.
        self._embedding_size: int | None = pipe.unet.config.time_cond_proj_dim
        self._guided = sampling.guidance_scale > 1 and self._embedding_size is None
        self._warned = False

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], negatives: Sequence[str]) -> Conditioning:
        """Encode prompts (P,): ``prompt`` and, with guidance, ``negative``, each (P, L, D).

        Without guidance (scale 1) negative prompts are not used. What exceeds the text encoder's
        length is cut off, with one warning.
        """
        self._warn_of_truncation([*texts, *negatives] if self._guided else list(texts))
        with no_warnings():
            prompt, negative = self.pipe.encode_prompt(
                list(texts), self.device, 1, self._guided, list(negatives)
            )
        tensors = {"prompt": prompt}
        if self._guided:
            tensors["negative"] = negative
        return Conditioning(tensors)

    @torch.inference_mode()
    def denoise(
        self, model_input: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One U-Net call; guidance puts negative and positive halves in one batch of 2 B."""
        embeds = conditioning.tensors["prompt"]
        scale_embedding = None
        if self._guided:
            model_input = torch.cat([model_input] * 2)
            embeds = torch.cat([conditioning.tensors["negative"], embeds])
        elif self._embedding_size is not None:
            scale = torch.full((len(model_input),), self._guidance_scale - 1)
            scale_embedding = self.pipe.get_guidance_scale_embedding(
                scale, embedding_dim=self._embedding_size
            ).to(self.device, self.dtype)
        output = self.pipe.unet(
            model_input,
            timestep,
            encoder_hidden_states=embeds,
            timestep_cond=scale_embedding,
            return_dict=False,
        )[0]
        if self._guided:
            negative, positive = output.chunk(2)
            output = negative + self._guidance_scale * (positive - negative)
        return output

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (B, C, h, w) to images uint8 (B, H, W, 3).

        Raises:
            UserError: the decoder's output is not finite.
        """
        vae = self.pipe.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        # Clipped to pixels, a picture that overflowed would pass for a black or white one.
        if not torch.isfinite(decoded).all():
            raise UserError(
                f"the decoder's output is not finite ({self.dtype}): try model.dtype float32 or "
                "bfloat16"
            )
        images = self.pipe.image_processor.postprocess(decoded, output_type="np")
        return (images * 255).round().astype(np.uint8)

    def _warn_of_truncation(self, texts: list[str]) -> None:
        if self._warned:
            return
        tokenizer = self.pipe.tokenizer
        lengths = map(len, tokenizer(texts, verbose=False).input_ids)
        longest = tokenizer.model_max_length
        if too_long := [t for t, length in zip(texts, lengths, strict=True) if length > longest]:
            self._warned = True
            logger.warning(
                "prompts longer than the text encoder's %d tokens are cut off, such as %r",
                longest,
                too_long[0][:60],
            )
