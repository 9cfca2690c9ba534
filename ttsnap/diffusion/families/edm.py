"""EDM: class-conditional diffusion in pixel space (Karras et al. 2022, arXiv 2206.00364)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor

from ttsnap import config
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError, did_you_mean


class EDMPipeline(diffusers.DiffusionPipeline):
    """A U-Net, its scheduler and the names of its classes; it saves and loads a model folder.

    ``unet`` is the raw network F of the paper (eq. 7) over pixels in [-1, 1], given c_in x and
    c_noise; the scheduler does the preconditioning.
    """

    vae_scale_factor = 1

    def __init__(
        self,
        unet: diffusers.UNet2DModel,
        scheduler: diffusers.EDMEulerScheduler,
        id2label: dict[str, str] | None = None,
        noise_scale: float = 1.0,
    ) -> None:
        """
        Args:
            unet: takes class labels.
            scheduler: with the sigma_data of the training.
            id2label: number of a class, as text, -> its names, divided by commas; without them a
                class has its number only.
            noise_scale: what the network is given is c_noise times this: 1 in the paper, 1000 in
                the models of the consistency models paper (arXiv 2303.01469).
        """
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label, noise_scale=noise_scale)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)


class EDMSampler(Sampler):
    """Drives an :class:`EDMPipeline`; a prompt is the number or a name of a class.

    There is no guidance, which scales of 0 and 1 say, and there are no negative prompts. Latents
    are pixels in [-1, 1] with their noise, of at most some 80 deviations, and therefore kept in
    float32.
    """

    pipeline_class = "EDMPipeline"
    stochastic_scheduler = config.Scheduler(
        name="EDMHeunScheduler",
        options={"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003},
    )
    """Churn as for ImageNet-64 (Karras et al. 2022, table 5)."""
    any_prompt = "0"

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        if sampling.guidance_scale > 1:
            raise UserError(
                f"sampling.guidance_scale: EDM has no guidance; expected 1, not "
                f"{sampling.guidance_scale:g}"
            )
        super().__init__(pipe, sampling)
        self.dtype = torch.float32
        count = self.denoiser.config.num_class_embeds or 0
        labels = {str(number): "" for number in range(count)}
        if not count or not {*(pipe.config.id2label or {})} <= {*labels}:
            raise UserError(
                f"model.path: the U-Net has {count} classes; expected some, and no others as "
                "id2label in model_index.json"
            )
        self._classes: dict[str, set[int]] = defaultdict(set)
        for number, names in (labels | (pipe.config.id2label or {})).items():
            for name in filter(None, map(_plain, [number, *names.split(",")])):
                self._classes[name].add(int(number))

    @classmethod
    def pipeline(cls) -> Any:
        return EDMPipeline

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """The 18 deterministic steps of Heun of the paper; the pipeline has no call of its own."""
        size = pipe.unet.config.sample_size or 64
        heun = config.Scheduler(name="EDMHeunScheduler")
        return config.Sampling(steps=35, guidance_scale=1, height=size, width=size, scheduler=heun)

    @property
    def text_limit(self) -> tuple[Any, int] | None:
        return None

    @property
    def size_multiple(self) -> int:
        return 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``: the number of each class, int64 (P,)."""
        return {"prompt": torch.tensor([self._class(text) for text in texts], device=self.device)}

    def _class(self, text: str) -> int:
        numbers = sorted(self._classes.get(_plain(text), ()))
        if len(numbers) == 1:
            return numbers[0]
        if numbers:
            problem = f"the name of more than one class; give a number of {numbers}"
        else:
            problem = "no such class; expected a class's name or number"
            problem += did_you_mean(_plain(text), self._classes)
        raise UserError(f"prompt {text[:60]!r}: {problem}")

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """What the network F makes of c_in x, c_noise and the classes (eq. 7)."""
        return self.denoiser(
            model_input.to(self.denoiser.dtype),
            timestep * self.pipe.config.noise_scale,
            class_labels=prompts["prompt"],
            return_dict=False,
        )[0].float()

    def reconstruct(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents are pixels."""
        return latents


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
