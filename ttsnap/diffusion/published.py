"""Configs of well-known models, written down, so that what they cost is known without weights.

They are the published ``config.json`` files as far as these differ from the defaults of the
classes of diffusers and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ttsnap import config
from ttsnap.diffusion.sources import model_index, parts, with_family
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
_FLUX2 = {"_class_name": "Flux2Transformer2DModel"}
_FLUX2_KL = {"_class_name": "AutoencoderKLFlux2"}
_DC_BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
_DC = {
    "_class_name": "AutoencoderDC",
    "encoder_block_types": _DC_BLOCKS,
    "decoder_block_types": _DC_BLOCKS,
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
}
_WAN = {"_class_name": "WanTransformer3DModel"}
_SD3 = {"_class_name": "SD3Transformer2DModel", "qk_norm": "rms_norm"}
_CLIP = {
    "_class_name": "CLIPTextModel",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_PROJECTED = _CLIP | {"_class_name": "CLIPTextModelWithProjection"}
_OPEN_CLIP = {
    "_class_name": "CLIPTextModelWithProjection",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
_T5 = {
    "_class_name": "T5EncoderModel",
    "d_model": 4096,
    "d_ff": 10240,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
}
_UMT5 = _T5 | {"_class_name": "UMT5EncoderModel", "vocab_size": 256384}
_QWEN3_4B = {
    "_class_name": "Qwen3ForCausalLM",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
_QWEN_VL = {
    "_class_name": "Qwen2_5_VLForConditionalGeneration",
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
    "tie_word_embeddings": False,
}
_MISTRAL = {"_class_name": "Mistral3ForConditionalGeneration", "tie_word_embeddings": False}

PRICED_TOKENS = 128
"""Tokens with which a model is priced whose texts are as long as they are."""

_CLIP_TOKENS = ("stable-diffusion", "sdxl", "stable-diffusion-3")
"""Families whose denoiser attends to all tokens of a CLIP text encoder."""

_TOKENS = {
    "flux": 512,
    "stable-diffusion-3": 256,
    "pixart-sigma": 300,
    "sana": 300,
    "sana-sprint": 300,
    "ltx": 128,
    "wan": 512,
    "z-image": PRICED_TOKENS,
    "flux2": 512,
    "flux2-klein": 512,
    "qwen-image": PRICED_TOKENS,
    "chroma": 512,
}
"""Family -> tokens of T5 or of a language model that an evaluation is priced with: those to which
its pipeline pads the text, or a usual number."""


@dataclass(frozen=True)
class Architecture:
    """A model of images or videos without its weights.

    Attributes:
        denoiser: config of the U-Net or transformer, with its ``_class_name``.
        vae: config of the autoencoder, with its ``_class_name``; None of a model of pixels.
        text_tokens: length of the text sequence that the denoiser attends to.
        texts: configs of the text encoders, with their ``_class_name``.
        distilled: whether the model has no guidance although its denoiser does not say so.
        denoiser_2: config of a second denoiser of the same shape, which takes over on the way.
        by_token: whether the denoiser is told the time of every token.
        sizes: height, width and frames that it is counted at unless others are asked for.
        names: folders or repositories that hold it, without their owners.
    """

    denoiser: Mapping[str, Any]
    vae: Mapping[str, Any] | None
    text_tokens: int
    texts: tuple[Mapping[str, Any], ...] = ()
    distilled: bool = False
    denoiser_2: Mapping[str, Any] | None = None
    by_token: bool = False
    sizes: tuple[tuple[int, int, int], ...] = ((512, 512, 1), (1024, 1024, 1))
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: config.Model) -> Architecture:
        """That of a model: of one that is not here as its name says, else as its configs say.

        Raises:
            UserError: a config is missing or unreadable.
        """
        if model.vae is not None:
            found = cls.of(model.model_copy(update={"vae": None}))
            return found if model.vae.path.endswith(config.FILE) else found._with(model.vae)
        path = Path(model.path)
        for known in () if path.is_dir() else ARCHITECTURES.values():
            if path.name in known.names:
                return known
        import diffusers
        import transformers

        from ttsnap.diffusion.layouts import layout_of

        model = with_family(model)
        if model.path.endswith(config.FILES):
            layout = {"path": str(layout_of(model)), "revision": None}
            model = model.model_copy(update=layout)
        source: dict[str, Any] = {"revision": model.revision}
        with_unet = model.family in ("stable-diffusion", "sdxl", "edm")
        # Any class reads the config of any other.
        load = partial(diffusers.AutoencoderKL.load_config, model.path, **source)
        try:
            denoiser = load(subfolder="unet" if with_unet else "transformer")
            vae = None if model.family == "edm" else load(subfolder="vae")
            tokens = _TOKENS.get(model.family, 0)
            if model.family in _CLIP_TOKENS:
                text, _ = transformers.CLIPTextConfig.get_config_dict(
                    model.path, subfolder="text_encoder", **source
                )
                tokens += text["max_position_embeddings"]
            index = model_index(model.path, model.revision)
            texts = []
            for name, (_, kind) in parts(index).items():
                if name.startswith("text_encoder"):
                    text, _ = transformers.PreTrainedConfig.get_config_dict(
                        model.path, subfolder=name, **source
                    )
                    texts.append(text | {"_class_name": kind})
            second = "transformer_2" in parts(index)
            return cls(
                denoiser,
                vae,
                tokens,
                tuple(texts),
                bool(index.get("is_distilled")),
                denoiser_2=load(subfolder="transformer_2") if second else None,
                by_token=bool(index.get("expand_timesteps")),
            )
        except (OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"model.path: no configs in {model.path}: {reason}") from None

    def _with(self, vae: config.Autoencoder) -> Architecture:
        """The same with another autoencoder."""
        import diffusers

        try:
            found = diffusers.AutoencoderKL.load_config(vae.path, revision=vae.revision)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"model.vae.path: no config in {vae.path}: {reason}") from None
        return replace(self, vae=found)


ARCHITECTURES = {
    "sd15": Architecture(
        denoiser={"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768},
        vae=_KL,
        text_tokens=77,
        texts=(_CLIP,),
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
        texts=(_CLIP, _OPEN_CLIP),
        names=("stable-diffusion-xl-base-1.0", "RealVisXL_V4.0"),
    ),
    "flux": Architecture(
        denoiser={"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
        vae=_FLUX_KL,
        text_tokens=512,
        texts=(_CLIP, _T5),
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
        texts=(_CLIP_PROJECTED, _OPEN_CLIP, _T5),
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
        texts=(_CLIP_PROJECTED, _OPEN_CLIP, _T5),
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
        texts=(_T5,),
        names=("PixArt-Sigma-XL-2-1024-MS",),
    ),
    "sana": Architecture(
        denoiser={"_class_name": "SanaTransformer2DModel"},
        vae=_DC,
        text_tokens=300,
        texts=({"_class_name": "Gemma2Model"},),
    ),
    "sana-sprint": Architecture(
        denoiser={
            "_class_name": "SanaTransformer2DModel",
            "guidance_embeds": True,
            "qk_norm": "rms_norm_across_heads",
        },
        vae=_DC,
        text_tokens=300,
        texts=({"_class_name": "Gemma2Model"},),
        names=("Sana_Sprint_1.6B_1024px_diffusers",),
    ),
    "z-image": Architecture(
        denoiser={"_class_name": "ZImageTransformer2DModel"},
        vae=_FLUX_KL,
        text_tokens=PRICED_TOKENS,
        texts=(_QWEN3_4B,),
        names=("Z-Image", "Z-Image-Turbo"),
    ),
    "flux2": Architecture(
        denoiser=_FLUX2,
        vae=_FLUX2_KL,
        text_tokens=512,
        texts=(_MISTRAL,),
        names=("FLUX.2-dev",),
    ),
    "flux2-klein-4b": Architecture(
        denoiser=_FLUX2
        | {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        vae=_FLUX2_KL,
        text_tokens=512,
        texts=(_QWEN3_4B,),
        distilled=True,
        names=("FLUX.2-klein-4B",),
    ),
    "qwen-image": Architecture(
        denoiser={"_class_name": "QwenImageTransformer2DModel"},
        vae={"_class_name": "AutoencoderKLQwenImage"},
        text_tokens=PRICED_TOKENS,
        texts=(_QWEN_VL,),
        names=("Qwen-Image",),
    ),
    "chroma": Architecture(
        denoiser={"_class_name": "ChromaTransformer2DModel"},
        vae=_FLUX_KL,
        text_tokens=512,
        texts=(_T5,),
        names=("Chroma1-HD", "Chroma1-Base", "Chroma1-Flash"),
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
        texts=(_T5,),
        sizes=((480, 704, 97),),
        names=("LTX-Video",),
    ),
    "wan-1.3b": Architecture(
        denoiser=_WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        vae={"_class_name": "AutoencoderKLWan"},
        text_tokens=512,
        texts=(_UMT5,),
        sizes=((480, 832, 81),),
        names=("Wan2.1-T2V-1.3B-Diffusers",),
    ),
    "wan-2.2": Architecture(
        denoiser=_WAN,
        denoiser_2=_WAN,
        vae={"_class_name": "AutoencoderKLWan"},
        text_tokens=512,
        texts=(_UMT5,),
        sizes=((480, 832, 81), (720, 1280, 81)),
        names=("Wan2.2-T2V-A14B-Diffusers",),
    ),
    "wan-2.2-5b": Architecture(
        denoiser=_WAN
        | {
            "in_channels": 48,
            "out_channels": 48,
            "num_attention_heads": 24,
            "ffn_dim": 14336,
            "num_layers": 30,
        },
        vae={
            "_class_name": "AutoencoderKLWan",
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
        },
        text_tokens=512,
        texts=(_UMT5,),
        by_token=True,
        sizes=((704, 1280, 121),),
        names=("Wan2.2-TI2V-5B-Diffusers",),
    ),
}
"""Stable Diffusion 1.5, SDXL and what is finetuned from it, FLUX.1-dev, Stable Diffusion 3.5,
PixArt-Σ XL for 1024 pixels, Sana 1.6B, SANA-Sprint 1.6B, Z-Image, FLUX.2 dev and klein 4B,
Qwen-Image, Chroma1; the U-Net of EDM for ImageNet-64 in diffusers' blocks, LTX-Video 2B, Wan 2.1
1.3B, Wan 2.2 14B and 5B."""
