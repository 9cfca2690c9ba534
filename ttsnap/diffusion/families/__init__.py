"""The families of models by their names: one file a family, with its sampler, and one entry here.

Each may import what all samplers share, and nothing imports a family but by its entry.
"""

from __future__ import annotations

from dataclasses import dataclass

from ttsnap.lazy import Entry


@dataclass(frozen=True)
class Family(Entry):
    """A family of models; its entry loads the class of its sampler.

    Attributes:
        pipeline: name of the diffusers pipeline class that the sampler drives.
        summary: its models, in a line.
        videos: whether candidates are videos, which are searched live and not stored step by step.
        previews: whether estimates are latents of images, which can be previewed.
    """

    pipeline: str
    summary: str
    videos: bool = False
    previews: bool = True


SAMPLERS = {
    "stable-diffusion": Family(
        "ttsnap.diffusion.families.stable_diffusion",
        "StableDiffusionSampler",
        "StableDiffusionPipeline",
        "Stable Diffusion 1.5, 2.1, and latent consistency models of their shape",
    ),
    "sdxl": Family(
        "ttsnap.diffusion.families.sdxl",
        "StableDiffusionXLSampler",
        "StableDiffusionXLPipeline",
        "SDXL and what is finetuned or distilled from it: RealVisXL, Turbo, Lightning",
    ),
    "flux": Family(
        "ttsnap.diffusion.families.flux",
        "FluxSampler",
        "FluxPipeline",
        "FLUX.1 dev, schnell",
    ),
    "stable-diffusion-3": Family(
        "ttsnap.diffusion.families.stable_diffusion_3",
        "StableDiffusion3Sampler",
        "StableDiffusion3Pipeline",
        "Stable Diffusion 3, 3.5",
    ),
    "pixart-sigma": Family(
        "ttsnap.diffusion.families.pixart",
        "PixArtSigmaSampler",
        "PixArtSigmaPipeline",
        "PixArt-Σ",
    ),
    "sana": Family(
        "ttsnap.diffusion.families.sana",
        "SanaSampler",
        "SanaPipeline",
        "Sana",
    ),
    "sana-sprint": Family(
        "ttsnap.diffusion.families.sana_sprint",
        "SanaSprintSampler",
        "SanaSprintPipeline",
        "SANA-Sprint, in 1 to 4 steps",
    ),
    "z-image": Family(
        "ttsnap.diffusion.families.z_image",
        "ZImageSampler",
        "ZImagePipeline",
        "Z-Image, Z-Image-Turbo",
    ),
    "flux2": Family(
        "ttsnap.diffusion.families.flux2",
        "Flux2Sampler",
        "Flux2Pipeline",
        "FLUX.2 dev",
    ),
    "flux2-klein": Family(
        "ttsnap.diffusion.families.flux2",
        "Flux2KleinSampler",
        "Flux2KleinPipeline",
        "FLUX.2 klein, distilled and base",
    ),
    "qwen-image": Family(
        "ttsnap.diffusion.families.qwen_image",
        "QwenImageSampler",
        "QwenImagePipeline",
        "Qwen-Image",
    ),
    "chroma": Family(
        "ttsnap.diffusion.families.chroma",
        "ChromaSampler",
        "ChromaPipeline",
        "Chroma1: HD, Base, Flash",
    ),
    "edm": Family(
        "ttsnap.diffusion.families.edm",
        "EDMSampler",
        "EDMPipeline",
        "class-conditional EDM, in pixels",
        previews=False,
    ),
    "ltx": Family(
        "ttsnap.diffusion.families.ltx",
        "LTXSampler",
        "LTXPipeline",
        "LTX-Video but 0.9.1: videos",
        videos=True,
        previews=False,
    ),
    "wan": Family(
        "ttsnap.diffusion.families.wan",
        "WanSampler",
        "WanPipeline",
        "Wan 2.1, 2.2: videos",
        videos=True,
        previews=False,
    ),
}
"""Name -> family."""

VIDEOS = tuple(name for name, family in SAMPLERS.items() if family.videos)
"""Families of videos."""
