"""What models and rewards cost by their configs alone.

Modules are built on torch's meta device, which knows shapes and holds no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from ttsnap.diffusion.flops import tflops
from ttsnap.diffusion.loading import no_deprecations
from ttsnap.diffusion.published import ARCHITECTURES, Architecture

__all__ = [
    "ARCHITECTURES",
    "REWARDS",
    "REWARD_NAMES",
    "Architecture",
    "Shapes",
    "model_tflops",
    "parameters",
    "preview_decoder",
    "reward_tflops",
]


def parameters(architecture: Architecture) -> tuple[int, int]:
    """Numbers of parameters of the denoiser, or both, and of the autoencoder."""
    with torch.device("meta"):
        modules = [
            _build(part) if part else None
            for part in (architecture.denoiser, architecture.denoiser_2, architecture.vae)
        ]
    first, second, vae = (
        sum(p.numel() for p in module.parameters()) if module else 0 for module in modules
    )
    return first + second, vae


def model_tflops(
    architecture: Architecture,
    height: int,
    width: int,
    guidance_scale: float,
    frames: int = 1,
    guidance_options: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """TFLOPs of one candidate of height x width pixels, and of a video so many frames.

    Returns:
        ``denoise``, an evaluation with its guidance: two passes where the scale is above 1, or
        above 0 for Z-Image (also at steps which ``cfg_truncation`` leaves without), and one of a
        guidance-distilled model, unless it has a ``true_cfg_scale``; ``decode``; ``preview``, a
        decode by :func:`preview_decoder`, or by the model itself where there is none.
    """
    with torch.device("meta"):
        model = Shapes.of(architecture, height, width, guidance_scale, frames, guidance_options)
        decode = tflops(model.decode) if model.vae else 0.0
        preview = decode
        if model.vae and model.latents.ndim == 4:
            tiny = preview_decoder(model.vae)
            preview = tflops(lambda: tiny.decode(model.latents))
        return {"denoise": tflops(model.denoise), "decode": decode, "preview": preview}


@dataclass(frozen=True)
class Shapes:
    """A model on the meta device, and what a candidate gives it to do there.

    Attributes:
        denoiser: U-Net or transformer.
        vae: autoencoder; None of a model of pixels.
        latents: of one candidate.
        passes: of the denoiser in an evaluation.
        text_tokens: length of the text sequence that it attends to.
        call: evaluates such a denoiser once, on a batch of latents and so many tokens.
    """

    denoiser: Any
    vae: Any
    latents: torch.Tensor
    passes: int
    text_tokens: int
    call: Callable[[Any, torch.Tensor, int], None]

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        height: int,
        width: int,
        guidance_scale: float,
        frames: int,
        guidance_options: Mapping[str, float] | None = None,
    ) -> Shapes:
        """Of a candidate of height x width pixels and so many frames."""
        denoiser = _build(architecture.denoiser)
        vae = _build(architecture.vae) if architecture.vae else None
        latents = torch.empty(1, *_latent_size(denoiser, vae, height, width, frames))
        distilled = architecture.distilled or _distilled(denoiser)
        guided = guidance_scale > _GUIDED_ABOVE.get(type(denoiser).__name__, 1) and not distilled
        guided |= (guidance_options or {}).get("true_cfg_scale", 1.0) > 1
        call = _call_by_token if architecture.by_token else _CALLS[type(denoiser).__name__]
        return cls(denoiser, vae, latents, 2 if guided else 1, architecture.text_tokens, call)

    def denoise(self) -> None:
        """An evaluation with its guidance."""
        self.call(self.denoiser, torch.cat([self.latents] * self.passes), self.text_tokens)

    def decode(self) -> None:
        """A decode."""
        if self.vae.config.get("timestep_conditioning"):
            self.vae.decode(self.latents, torch.empty(1))
        else:
            self.vae.decode(self.latents)


def _latent_size(denoiser: Any, vae: Any, height: int, width: int, frames: int) -> tuple[int, ...]:
    """Shape of one candidate's latents, before a pipeline packs them."""
    match vae:
        case None:
            return denoiser.config.in_channels, height, width
        case diffusers.AutoencoderKLLTXVideo():
            channels = vae.config.latent_channels
            factor, rate = vae.spatial_compression_ratio, vae.temporal_compression_ratio
        case diffusers.AutoencoderKLQwenImage():
            channels = vae.config.z_dim
            factor = rate = 2 ** len(vae.config.temperal_downsample)
        case diffusers.AutoencoderKLWan():
            channels = vae.config.z_dim
            factor, rate = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
        case _:
            factor = 2 ** (_scales(vae) - 1)
            return vae.config.latent_channels, height // factor, width // factor
    return channels, (frames - 1) // rate + 1, height // factor, width // factor


def preview_decoder(vae: Any) -> Any:
    """A decoder in the shape of TAESD for the latents of ``vae``, which itself may be as small."""
    if isinstance(vae, diffusers.AutoencoderTiny):
        return vae
    scales = _scales(vae)
    return diffusers.AutoencoderTiny(
        latent_channels=vae.config.latent_channels,
        encoder_block_out_channels=(64,) * scales,
        decoder_block_out_channels=(64,) * scales,
        num_encoder_blocks=(1,) + (3,) * (scales - 1),
        num_decoder_blocks=(3,) * (scales - 1) + (1,),
    ).eval()


def _scales(vae: Any) -> int:
    """Resolutions of an autoencoder, each half of the one before."""
    settings = vae.config
    return len(settings.get("block_out_channels") or settings.encoder_block_out_channels)


def _distilled(denoiser: Any) -> bool:
    """Whether the guidance scale is an input instead of a second pass, or there is none."""
    settings = denoiser.config
    embedded = settings.get("time_cond_proj_dim") is not None or settings.get("guidance_embeds")
    unguided = ("FluxTransformer2DModel", "UNet2DModel")
    return bool(embedded) or type(denoiser).__name__ in unguided


def _build(settings: Mapping[str, Any]) -> Any:
    with no_deprecations():
        return getattr(diffusers, settings["_class_name"]).from_config(dict(settings)).eval()


def _call_unet(unet: Any, latents: torch.Tensor, tokens: int) -> None:
    settings, batch = unet.config, len(latents)
    embedding = settings.time_cond_proj_dim
    added = None
    if settings.addition_embed_type == "text_time":
        times = 6  # of SDXL: original size, crop, target size
        pooled = settings.projection_class_embeddings_input_dim
        pooled -= times * settings.addition_time_embed_dim
        added = {"text_embeds": torch.empty(batch, pooled), "time_ids": torch.empty(batch, times)}
    unet(
        latents,
        torch.empty(batch),
        encoder_hidden_states=torch.empty(batch, tokens, settings.cross_attention_dim),
        timestep_cond=None if embedding is None else torch.empty(batch, embedding),
        added_cond_kwargs=added,
    )


def _packed(transformer: Any, latents: torch.Tensor, tokens: int) -> dict[str, Any]:
    """What transformers over tokens of 2 x 2 latents all take."""
    settings, batch = transformer.config, len(latents)
    patches = latents.shape[-2] * latents.shape[-1] // 4
    return {
        "hidden_states": torch.empty(batch, patches, settings.in_channels),
        "encoder_hidden_states": torch.empty(batch, tokens, settings.joint_attention_dim),
        "timestep": torch.empty(batch),
    }


def _call_flux(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    """FLUX.1, FLUX.2 and Chroma."""
    settings, batch = transformer.config, len(latents)
    inputs = _packed(transformer, latents, tokens)
    patches = inputs["hidden_states"].shape[1]
    match type(transformer).__name__:
        case "ChromaTransformer2DModel":
            inputs["attention_mask"] = torch.empty(batch, tokens + patches)
        case "FluxTransformer2DModel":
            inputs["pooled_projections"] = torch.empty(batch, settings.pooled_projection_dim)
    if settings.get("guidance_embeds"):
        inputs["guidance"] = torch.empty(batch)
    axes = len(settings.axes_dims_rope)
    transformer(**inputs, img_ids=torch.empty(patches, axes), txt_ids=torch.empty(tokens, axes))


def _call_sd3(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    settings, batch = transformer.config, len(latents)
    transformer(
        hidden_states=latents,
        encoder_hidden_states=torch.empty(batch, tokens, settings.joint_attention_dim),
        pooled_projections=torch.empty(batch, settings.pooled_projection_dim),
        timestep=torch.empty(batch),
    )


def _call_masked(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    """PixArt-Σ, Sana and SANA-Sprint."""
    batch = len(latents)
    options: dict[str, Any] = {}
    if type(transformer).__name__ == "PixArtTransformer2DModel":
        options["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    if transformer.config.get("guidance_embeds"):
        options["guidance"] = torch.empty(batch)
    transformer(
        latents,
        encoder_hidden_states=torch.empty(batch, tokens, transformer.config.caption_channels),
        encoder_attention_mask=torch.empty(batch, tokens),
        timestep=torch.empty(batch),
        **options,
    )


def _call_classes(unet: Any, pixels: torch.Tensor, tokens: int) -> None:
    """EDM."""
    batch = len(pixels)
    unet(pixels, torch.empty(batch), class_labels=torch.empty(batch, dtype=torch.long))


def _call_ltx(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    settings, (batch, _, frames, height, width) = transformer.config, latents.shape
    patch = settings.patch_size**2 * settings.patch_size_t
    transformer(
        hidden_states=torch.empty(batch, frames * height * width // patch, settings.in_channels),
        encoder_hidden_states=torch.empty(batch, tokens, settings.caption_channels),
        encoder_attention_mask=torch.empty(batch, tokens),
        timestep=torch.empty(batch),
        num_frames=frames,
        height=height,
        width=width,
    )


def _call_wan(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    batch = len(latents)
    text = torch.empty(batch, tokens, transformer.config.text_dim)
    transformer(latents, torch.empty(batch), text)


def _call_by_token(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    """Wan 2.2 5B."""
    batch, patches = len(latents), math.prod(latents.shape[2:]) // 4
    text = torch.empty(batch, tokens, transformer.config.text_dim)
    transformer(latents, torch.empty(batch, patches), text)


def _call_qwen_image(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    height, width = (size // 2 for size in latents.shape[-2:])
    shapes = [[(1, height, width)]] * len(latents)
    transformer(**_packed(transformer, latents, tokens), img_shapes=shapes)


def _call_z_image(transformer: Any, latents: torch.Tensor, tokens: int) -> None:
    batch, width = len(latents), transformer.config.cap_feat_dim
    transformer(
        list(latents.unsqueeze(2)), torch.empty(batch), list(torch.empty(batch, tokens, width))
    )


_GUIDED_ABOVE = {"ZImageTransformer2DModel": 0.0}
"""Class of a transformer -> guidance scale above which there are two passes, if it is not 1."""

_CALLS: dict[str, Callable[[Any, torch.Tensor, int], None]] = {
    "UNet2DConditionModel": _call_unet,
    "FluxTransformer2DModel": _call_flux,
    "SD3Transformer2DModel": _call_sd3,
    "PixArtTransformer2DModel": _call_masked,
    "SanaTransformer2DModel": _call_masked,
    "UNet2DModel": _call_classes,
    "LTXVideoTransformer3DModel": _call_ltx,
    "WanTransformer3DModel": _call_wan,
    "ZImageTransformer2DModel": _call_z_image,
    "Flux2Transformer2DModel": _call_flux,
    "QwenImageTransformer2DModel": _call_qwen_image,
    "ChromaTransformer2DModel": _call_flux,
}


def _clip_huge() -> float:
    """The image tower of CLIP ViT-H/14 at 224 pixels; the text is encoded once per prompt."""
    tower = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=16,
            patch_size=14,
            image_size=224,
            projection_dim=1024,
        )
    )
    return tflops(lambda: tower(torch.empty(1, 3, 224, 224)))


def _image_reward() -> float:
    """BLIP: ViT-L/16 at 224 pixels, and a BERT over 35 tokens that looks at all its patches."""
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    vision = BlipVisionModel(
        transformers.BlipVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            patch_size=16,
            image_size=224,
        )
    )
    text = BlipTextModel(
        transformers.BlipTextConfig(
            hidden_size=768,
            encoder_hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
        ),
        add_pooling_layer=False,
    )

    def score() -> None:
        patches = vision(torch.empty(1, 3, 224, 224)).last_hidden_state
        text(torch.empty(1, 35, dtype=torch.long), encoder_hidden_states=patches)

    return tflops(score)


def _classifier() -> float:
    """ViT-B/16 at 224 pixels with the 1000 classes of ImageNet."""
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    return tflops(lambda: vit(torch.empty(1, 3, 224, 224)))


REWARDS: dict[str, Callable[[], float]] = {
    "PickScore": _clip_huge,
    "HPSv2": _clip_huge,
    "ImageReward": _image_reward,
    "ViT-B/16": _classifier,
}
REWARD_NAMES = {
    "PickScore_v1": "PickScore",
    "HPSv2": "HPSv2",
    "ImageReward": "ImageReward",
    "vit-base-patch16-224": "ViT-B/16",
}
"""Repository of a reward, without its owner -> one of ``REWARDS``."""


def reward_tflops(name: str) -> float:
    """TFLOPs of scoring one image with one of ``REWARDS``, its text already encoded."""
    with torch.device("meta"):
        return REWARDS[name]()
