"""Tiny pipelines of every family, for 32 x 32 pixels, in float32 on the CPU.

Each is made of the real classes with random weights of seed 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.tiny import MAX_LENGTH, tiny_stable_diffusion, tiny_tokenizer
from ttsnap.diffusion.families.edm import EDMPipeline

LETTERS = [chr(code) for code in range(33, 127)]


def _seeded(build: Callable[[], Any]) -> Callable[[Path | None], Any]:
    def built(folder: Path | None = None) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = build()
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
        pipe.set_progress_bar_config(disable=True)
        if folder is not None:
            pipe.save_pretrained(folder)
        return pipe

    return built


def _clip(size: int, *, projected: bool = True) -> Any:
    tokenizer = tiny_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=32,
        projection_dim=size,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def tiny_t5(size: int = 32) -> tuple[Any, Any]:
    """A tokenizer of single letters, and an encoder."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    tokenizer = transformers.T5Tokenizer(
        vocab=[(piece, -float(index)) for index, piece in enumerate(pieces)], extra_ids=0
    )
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer), d_model=size, d_kv=8, d_ff=32, num_layers=2, num_heads=2
        )
    )
    return tokenizer, encoder


def _gemma(size: int = 16) -> tuple[Any, Any]:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokenizer = transformers.GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]
    )
    encoder = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=size,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    return tokenizer, encoder


def tiny_autoencoder(**settings: Any) -> Any:
    """An autoencoder with 4 channels at a quarter of the resolution."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )


def _louder(module: Any, part: str, factor: float) -> Any:
    """Random weights hardly look at the text; with this another prompt makes another picture."""
    for name, parameter in module.named_parameters():
        if part in name:
            parameter.data *= factor
    return module


def sdxl() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=tiny_autoencoder(),
        text_encoder=_clip(16, projected=False),
        text_encoder_2=_clip(32),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=_louder(unet, "attn2.to_out", 30),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def flux(*, guidance_embeds: bool = True) -> Any:
    tokenizer, encoder = tiny_t5()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=guidance_embeds
        ),
        vae=tiny_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=_clip(16, projected=False),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
        transformer=_louder(transformer, "text_embedder", 10),
    )


def stable_diffusion_3() -> Any:
    tokenizer, encoder = tiny_t5()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=_louder(transformer, "text_embedder", 10),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=_clip(16),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=_clip(16),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=encoder,
        tokenizer_3=tokenizer,
    )


def pixart_sigma() -> Any:
    tokenizer, encoder = tiny_t5()
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=32,
        sample_size=8,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=tiny_autoencoder(scaling_factor=0.13025),
        transformer=_louder(transformer, "attn2.to_out", 30),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def sana() -> Any:
    tokenizer, encoder = _gemma()
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=16,
        sample_size=8,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )
    return diffusers.SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=_louder(transformer, "attn2.to_out", 30),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    )


def edm() -> Any:
    unet = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        num_class_embeds=4,
    )
    return EDMPipeline(
        unet,
        diffusers.EDMEulerScheduler(),
        {"0": "red", "1": 'blue 😀 "/', "2": "Crane, Heron", "3": "crane"},
    )


def tiny_umt5(size: int = 32) -> tuple[Any, Any]:
    tokenizer, _ = tiny_t5()
    encoder = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=len(tokenizer), d_model=size, d_kv=8, d_ff=32, num_layers=2, num_heads=2
        )
    )
    return tokenizer, encoder


def ltx(**autoencoder: Any) -> Any:
    tokenizer, encoder = tiny_t5()
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=4,
        spatial_compression_ratio=16,
        temporal_compression_ratio=4,
        **{"decoder_inject_noise": (False,) * 3} | autoencoder,
    )
    vae.latents_mean.copy_(torch.linspace(-1, 1, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 8))
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1
        ),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=_louder(transformer, "attn2.to_out", 30),
    )


def wan(**settings: Any) -> Any:
    tokenizer, encoder = tiny_umt5()
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[-0.7, 0.1, 0.9, 0.0],
        latents_std=[9.0, 5.0, 8.0, 4.0],
    )
    return diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=_louder(transformer, "attn2.to_out", 100),
        scheduler=diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        **settings,
    )


TINY: dict[str, Callable[[Path | None], Any]] = {
    "stable-diffusion": tiny_stable_diffusion,
    "sdxl": _seeded(sdxl),
    "flux": _seeded(flux),
    "stable-diffusion-3": _seeded(stable_diffusion_3),
    "pixart-sigma": _seeded(pixart_sigma),
    "sana": _seeded(sana),
    "edm": _seeded(edm),
    "ltx": _seeded(ltx),
    "wan": _seeded(wan),
}
"""Family -> its tiny pipeline, saved to a folder if one is given."""


def tiny(family: str, folder: Path | None = None) -> Any:
    """The tiny pipeline of ``family``, saved to ``folder``, too."""
    return TINY[family](folder)


def tiny_ltx(**autoencoder: Any) -> Any:
    """LTX-Video with other settings of its autoencoder."""
    return _seeded(lambda: ltx(**autoencoder))(None)


def tiny_wan(**settings: Any) -> Any:
    """Wan with other settings of its pipeline."""
    return _seeded(lambda: wan(**settings))(None)


def tiny_flux_schnell() -> Any:
    """The pipeline of FLUX.1-schnell: no guidance, no shift with the resolution."""
    return _seeded(lambda: flux(guidance_embeds=False))(None)
