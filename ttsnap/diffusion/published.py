"""Configs of well-known models, written down, so that what they cost is known without weights.

They are the published ``config.json`` files as far as these differ from the defaults of the
classes of diffusers and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ttsnap import config
from ttsnap.diffusion.sources import with_family
from ttsnap.errors import UserError

_KL = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_KL_16 = _KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_FLUX_KL = _KL_16 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}
_DC_BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
_DC = {
    "_class_name": "AutoencoderDC",
    "encoder_block_types": _DC_BLOCKS,
    "decoder_block_types": _DC_BLOCKS,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
}
_SD3 = {"_class_name": "SD3Transformer2DModel", "qk_norm": "rms_norm"}


_CLIP_TOKENS = ("stable-diffusion", "sdxl", "stable-diffusion-3")
"""Families whose denoiser attends to all tokens of a CLIP text encoder."""

_T5_TOKENS = {
    "flux": 512,
    "stable-diffusion-3": 256,
    "pixart-sigma": 300,
    "sana": 300,
    "ltx": 128,
    "wan": 512,
}
"""Family -> length to which its pipeline pads the text of T5 or Gemma."""


@dataclass(frozen=True)
class Architecture:
    """A model of images or videos without its weights.

    Attributes:
        denoiser: config of the U-Net or transformer, with its ``_class_name``.
        vae: config of the autoencoder, with its ``_class_name``; None of a model of pixels.
        text_tokens: length of the text sequence that the denoiser attends to.
        sizes: height, width and frames that it is counted at unless others are asked for.
        names: folders or repositories that hold it, without their owners.
    """

    denoiser: Mapping[str, Any]
    vae: Mapping[str, Any] | None
    text_tokens: int
    sizes: tuple[tuple[int, int, int], ...] = ((512, 512, 1), (1024, 1024, 1))
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: config.Model) -> Architecture:
        """That of a model: of one that is not here as its name says, else as its configs say.

        Raises:
            UserError: a config is missing or unreadable.
        """
        path = Path(model.path)
        for known in () if path.is_dir() else ARCHITECTURES.values():
            if path.name in known.names:
                return known
        import diffusers
        import transformers

        from ttsnap.diffusion.layouts import layout_of

        model = with_family(model)
        if model.path.endswith(config.FILE):
            layout = {"path": str(layout_of(model)), "revision": None}
            model = model.model_copy(update=layout)
        source: dict[str, Any] = {"revision": model.revision}
        with_unet = model.family in ("stable-diffusion", "sdxl", "edm")
        # Any class reads the config of any other.
        load = partial(diffusers.AutoencoderKL.load_config, model.path, **source)
        try:
            denoiser = load(subfolder="unet" if with_unet else "transformer")
            vae = None if model.family == "edm" else load(subfolder="vae")
            tokens = _T5_TOKENS.get(model.family, 0)
            if model.family in _CLIP_TOKENS:
                text, _ = transformers.CLIPTextConfig.get_config_dict(
                    model.path, subfolder="text_encoder", **source
                )
                tokens += text["max_position_embeddings"]
            return cls(denoiser, vae, tokens)
        except (OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"model.path: no configs in {model.path}: {reason}") from None


ARCHITECTURES = {
    "sd15": Architecture(
        denoiser={"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768},
        vae=_KL,
        text_tokens=77,
        names=("stable-diffusion-v1-5",),
    ),
    "sdxl": Architecture(
        denoiser={
            "_class_name": "UNet2DConditionModel",
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae=_KL,
        text_tokens=77,
        names=("stable-diffusion-xl-base-1.0", "RealVisXL_V4.0"),
    ),
    "flux": Architecture(
        denoiser={"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
        vae=_FLUX_KL,
        text_tokens=512,
        names=("FLUX.1-dev",),
    ),
    "sd35-medium": Architecture(
        denoiser=_SD3
        | {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "dual_attention_layers": list(range(13)),
        },
        vae=_KL_16,
        text_tokens=77 + 256,
        names=("stable-diffusion-3.5-medium",),
    ),
    "sd35-large": Architecture(
        denoiser=_SD3
        | {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
        },
        vae=_KL_16,
        text_tokens=77 + 256,
        names=("stable-diffusion-3.5-large",),
    ),
    "pixart-sigma": Architecture(
        denoiser={
            "_class_name": "PixArtTransformer2DModel",
            "caption_channels": 4096,
            "interpolation_scale": 2,
            "use_additional_conditions": False,
        },
        vae=_KL,
        text_tokens=300,
        names=("PixArt-Sigma-XL-2-1024-MS",),
    ),
    "sana": Architecture(
        denoiser={"_class_name": "SanaTransformer2DModel"}, vae=_DC, text_tokens=300
    ),
    "edm": Architecture(
        denoiser={
            "_class_name": "UNet2DModel",
            "sample_size": 64,
            "block_out_channels": [192, 384, 576, 768],
            "layers_per_block": 3,
            "attention_head_dim": 64,
            "num_class_embeds": 1000,
            "resnet_time_scale_shift": "scale_shift",
            "down_block_types": ["ResnetDownsampleBlock2D"] + ["AttnDownBlock2D"] * 3,
            "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"],
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        },
        vae=None,
        text_tokens=0,
        sizes=((64, 64, 1),),
        names=("edm-imagenet-64",),
    ),
    "ltx": Architecture(
        denoiser={"_class_name": "LTXVideoTransformer3DModel"},
        vae={"_class_name": "AutoencoderKLLTXVideo"},
        text_tokens=128,
        sizes=((480, 704, 97),),
        names=("LTX-Video",),
    ),
    "wan-1.3b": Architecture(
        denoiser={
            "_class_name": "WanTransformer3DModel",
            "num_attention_heads": 12,
            "ffn_dim": 8960,
            "num_layers": 30,
        },
        vae={"_class_name": "AutoencoderKLWan"},
        text_tokens=512,
        sizes=((480, 832, 81),),
        names=("Wan2.1-T2V-1.3B-Diffusers",),
    ),
}
"""Stable Diffusion 1.5, SDXL and what is finetuned from it, FLUX.1-dev, Stable Diffusion 3.5,
PixArt-Σ XL for 1024 pixels, Sana 1.6B; the U-Net of EDM for ImageNet-64 in diffusers' blocks,
LTX-Video 2B, Wan 2.1 1.3B."""
