"""Single .safetensors files in the layouts that trainers and other programs use.

diffusers knows these layouts; what a file does not hold (configs, tokenizers, often text encoders
or the autoencoder) comes from a folder in diffusers layout.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from diffusers.loaders import single_file_utils

from ttsnap.diffusion.headers import header

FAMILIES = {
    "v1": "stable-diffusion",
    "v2": "stable-diffusion",
    "xl_base": "sdxl",
    "playground-v2-5": "sdxl",
    "flux-dev": "flux",
    "flux-schnell": "flux",
    "sd3": "stable-diffusion-3",
    "sd35_medium": "stable-diffusion-3",
    "sd35_large": "stable-diffusion-3",
    "sana": "sana",
    "ltx-video": "ltx",
    "ltx-video-0.9.1": "ltx",
    "ltx-video-0.9.5": "ltx",
    "ltx-video-0.9.7": "ltx",
    "z-image-turbo": "z-image",
    "flux-2-dev": "flux2",
    "chroma": "chroma",
    "wan-t2v-1.3B": "wan",
    "wan-t2v-14B": "wan",
}
"""What diffusers calls a layout -> family."""

USUAL = ("v1", "xl_base")
"""Those that most finetuned models have, with the configs and tokenizers of the original."""

# What diffusers calls v1 is also all that it does not know, such as the U-Net of an SDXL alone.
_V1 = single_file_utils.CHECKPOINT_KEY_NAMES["clip"]


def kind_of(file: Path) -> str | None:
    """What diffusers calls the layout of a file, by its keys; None if they do not tell.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    shapes = header(file)
    tensors = {name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    try:
        kind = single_file_utils.infer_diffusers_model_type(tensors)
    except (KeyError, IndexError, UnboundLocalError):
        return None
    return None if kind == "v1" and _V1 not in shapes else kind


def default_components(file: Path) -> str | None:
    """The repository with the configs and tokenizers of SD 1.5 or SDXL, for a file of one."""
    kind = kind_of(file)
    if kind not in USUAL:
        return None
    return single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
