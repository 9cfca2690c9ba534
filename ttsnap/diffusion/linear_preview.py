"""A preview of latents without a decoder: a linear map from their channels to red, green and blue.

Each pixel of the latents becomes one colour, and the small picture is scaled up. The map is fitted
by least squares to what the model's own autoencoder decodes, so that every latent model has one. It
stands where an ``AutoencoderTiny`` can (:attr:`Sampler.previewer`), at next to no price.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from ttsnap.errors import UserError
from ttsnap.store.files import atomic

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler

HELD_OUT = 5  # of as many pictures each last one is what the fit is measured on


class LinearPreview(nn.Module):
    """Latents (…, C, h, w), as they are denoised, to pictures of ``scale`` times their size."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.color = nn.Conv2d(channels, 3, 1)
        self.scale = scale
        self.eval().requires_grad_(False)

    @classmethod
    def unfitted(cls, sampler: Sampler) -> Self:
        """One for the latents of a sampler, on its device, whose price is that of a fitted one."""
        channels, *_ = sampler.latent_size()
        return cls(channels, sampler.scale_factor).to(sampler.device, sampler.dtype)

    @classmethod
    def fit(cls, latents: npt.NDArray[Any], images: npt.NDArray[np.uint8]) -> tuple[Self, float]:
        """Least squares between latents and the mean colour of the pixels that each stands for.

        Args:
            latents: (N, C, h, w), of final images.
            images: (N, s h, s w, 3) uint8, what they decode to.

        Returns:
            The map, and the share of the colours' variance that it explains (R²) on every fifth
            picture, which it was not fitted to.
        """
        count, channels, height, width = latents.shape
        scale = images.shape[1] // height
        small = images.reshape(count, height, scale, width, scale, 3).mean((2, 4), np.float64)
        colors = small.reshape(count, -1, 3) / 127.5 - 1
        known = np.moveaxis(latents.astype(np.float64), 1, -1).reshape(count, -1, channels)
        known = np.concatenate([known, np.ones((*known.shape[:2], 1))], axis=-1)
        held_out = np.arange(count) % HELD_OUT == HELD_OUT - 1
        held_out[-1] = True  # of few, too
        fitted = (known[~held_out].reshape(-1, channels + 1), colors[~held_out].reshape(-1, 3))
        weights = np.linalg.lstsq(*fitted)[0]
        missed = np.square(known[held_out] @ weights - colors[held_out]).sum()
        spread = np.square(colors[held_out] - colors[held_out].mean((0, 1))).sum()
        found = cls(channels, scale)
        fitted_to = torch.from_numpy(weights).float()
        found.color.load_state_dict(
            {"weight": fitted_to[:-1].T[:, :, None, None], "bias": fitted_to[-1]}
        )
        return found, float(1 - missed / spread)

    @property
    def takes(self) -> str:
        """The latents that it takes, in words."""
        return f"latents of {self.color.in_channels} channels, 1/{self.scale} of the pixels"

    @property
    def dtype(self) -> torch.dtype:
        """Of the latents that it takes."""
        return self.color.weight.dtype

    def decode(
        self, latents: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:  # as AutoencoderTiny
        """Latents (B, C, h, w) to images (B, 3, s h, s w) in [-1, 1], or somewhat beyond."""
        small = self.color(latents)
        return (F.interpolate(small, scale_factor=self.scale, mode="bilinear"),)

    @torch.inference_mode()
    def images(self, latents: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Latents (…, C, h, w) to pictures (…, s h, s w, 3) uint8."""
        flat = torch.from_numpy(np.asarray(latents, np.float32).reshape(-1, *latents.shape[-3:]))
        (decoded,) = self.decode(flat)
        pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        images = pixels.permute(0, 2, 3, 1).numpy()
        return images.reshape(*latents.shape[:-3], *images.shape[1:])

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        from safetensors.torch import save

        with atomic(path) as file:
            file.write(save(self.state_dict(), {"scale": str(self.scale)}))

    @classmethod
    def load(cls, path: Path, sampler: Sampler | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: of the file.
            sampler: whose latents it is to show, on the device of that.

        Raises:
            UserError: there is none, it is something else, or was fitted to other latents.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                found = cls(state["color.weight"].shape[1], int(file.metadata()["scale"]))
            found.load_state_dict(state)
        except FileNotFoundError:
            raise UserError(f"{path}: no linear preview here") from None
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path}: not a linear preview: {error}") from None
        if sampler is None:
            return found
        wanted = cls.unfitted(sampler)
        if found.takes != wanted.takes:
            raise UserError(f"{path}: was fitted to {found.takes}, the model has {wanted.takes}")
        return found.to(sampler.device, sampler.dtype)


class Previews:
    """Pictures that are made of latents when they are read; indexed like an array of them.

    Args:
        latents: (prompt, image, step, C, h, w), of numpy or Zarr.
        preview: makes the pictures.
    """

    def __init__(self, latents: Any, preview: LinearPreview) -> None:
        self._latents, self._preview = latents, preview
        height, width = (preview.scale * size for size in latents.shape[-2:])
        self.shape: tuple[int, ...] = (*latents.shape[:-3], height, width, 3)

    def __getitem__(self, selection: Any) -> npt.NDArray[np.uint8]:
        return self._preview.images(np.asarray(self._latents[selection]))
