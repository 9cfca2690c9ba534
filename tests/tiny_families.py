"""Tiny pipelines of every family, for 32 x 32 pixels, in float32 on the CPU.

Each is made of the real classes with random weights of seed 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from tests.tiny import MAX_LENGTH, tiny_stable_diffusion, tiny_tokenizer
from ttsnap.diffusion.families.edm import EDMPipeline
from ttsnap.diffusion.loading import no_deprecations

LETTERS = [chr(code) for code in range(33, 127)]


def _seeded(build: Callable[[], Any]) -> Callable[[Path | None], Any]:
    def built(folder: Path | None = None) -> Any:
        with torch.random.fork_rng(devices=[]), no_deprecations():
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


def _attentive(module: Any) -> Any:
    """The same where a few tokens of many are the prompt's."""
    for part in ("norm_added_k", "add_v_proj", "norm_q", "to_out"):
        _louder(module, part, 5)
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


def _sana_parts(**settings: Any) -> dict[str, Any]:
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
        **settings,
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
    return {
        "tokenizer": tokenizer,
        "text_encoder": encoder,
        "vae": vae,
        "transformer": _louder(transformer, "attn2.to_out", 30),
    }


def sana() -> Any:
    return diffusers.SanaPipeline(
        scheduler=diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        **_sana_parts(),
    )


def sana_sprint() -> Any:
    return diffusers.SanaSprintPipeline(
        scheduler=diffusers.SCMScheduler(),
        **_sana_parts(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
    )


CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _qwen_tokenizer() -> Any:
    """One token a byte."""
    pieces = [*sorted(ByteLevel.alphabet()), *CONTROLS]
    return transformers.Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        extra_special_tokens=CONTROLS,
        chat_template=CHAT,
    )


def _qwen3(kind: Any, layers: int = 2, size: int = 16) -> tuple[Any, Any]:
    tokenizer = _qwen_tokenizer()
    settings = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return tokenizer, kind(settings)


def z_image() -> Any:
    tokenizer, encoder = _qwen3(transformers.Qwen3Model)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[512, 64, 64],
    )
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(pad)
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=tiny_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=_louder(transformer, "cap_embedder.1", 10),
    )


def _flux2_parts(text_size: int, guidance_embeds: bool) -> dict[str, Any]:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * text_size,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    _attentive(transformer)
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    )
    vae.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True
        ),
        "vae": vae,
        "transformer": _louder(transformer, "context_embedder", 100),
    }


def _mistral3(layers: int, size: int) -> Any:
    return transformers.Mistral3ForConditionalGeneration(
        transformers.Mistral3Config(
            text_config=transformers.MistralConfig(
                vocab_size=256 + len(CONTROLS),
                hidden_size=size,
                intermediate_size=16,
                num_hidden_layers=layers,
                num_attention_heads=1,
                num_key_value_heads=1,
                head_dim=8,
            ),
            vision_config=transformers.PixtralVisionConfig(
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                image_size=32,
            ),
            image_token_index=0,
        )
    )


def flux2() -> Any:
    """With a tokenizer in place of the processor, which needs torchvision and adds pictures."""
    return diffusers.Flux2Pipeline(
        text_encoder=_mistral3(layers=30, size=8),
        tokenizer=_qwen_tokenizer(),
        **_flux2_parts(8, guidance_embeds=True),
    )


def flux2_klein(*, is_distilled: bool = False) -> Any:
    tokenizer, encoder = _qwen3(transformers.Qwen3ForCausalLM, layers=27, size=8)
    return diffusers.Flux2KleinPipeline(
        text_encoder=encoder,
        tokenizer=tokenizer,
        is_distilled=is_distilled,
        **_flux2_parts(8, guidance_embeds=False),
    )


def _qwen_vl(size: int) -> Any:
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={
                "vocab_size": 256 + len(CONTROLS),
                "hidden_size": size,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [2, 3, 3],
                },
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "out_hidden_size": size,
                "intermediate_size": 16,
                "num_heads": 2,
                "fullatt_block_indexes": [0],
            },
        )
    )


def qwen_image() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.7, 0.1, 0.9, 0.0],
        latents_std=[9.0, 5.0, 8.0, 4.0],
    )
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02
        ),
        vae=vae,
        text_encoder=_qwen_vl(16),
        tokenizer=_qwen_tokenizer(),
        transformer=_attentive(_louder(transformer, "txt_in", 10)),
    )


def chroma() -> Any:
    tokenizer, encoder = tiny_t5()
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=_louder(transformer, "context_embedder", 10),
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


def _wan_transformer(channels: int = 4, layers: int = 2) -> Any:
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=layers,
        rope_max_seq_len=32,
    )
    return _louder(transformer, "attn2.to_out", 100)


def _wan_autoencoder(**settings: Any) -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[-0.7, 0.1, 0.9, 0.0],
        latents_std=[9.0, 5.0, 8.0, 4.0],
        **settings,
    )


def _wan(**settings: Any) -> Any:
    tokenizer, encoder = tiny_umt5()
    parts = {
        "transformer": _wan_transformer(),
        "vae": _wan_autoencoder(),
        "scheduler": diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    }
    return diffusers.WanPipeline(tokenizer=tokenizer, text_encoder=encoder, **parts | settings)


def wan() -> Any:
    """Wan 2.1."""
    return _wan()


def wan_22(layers: int = 2) -> Any:
    """Wan 2.2 14B, whose second transformer has so many layers."""
    return _wan(transformer_2=_wan_transformer(layers=layers), boundary_ratio=0.875)


def wan_22_5b() -> Any:
    """Wan 2.2 5B."""
    vae = _wan_autoencoder(
        is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16
    )
    return _wan(vae=vae, expand_timesteps=True)


TINY: dict[str, Callable[[Path | None], Any]] = {
    "stable-diffusion": tiny_stable_diffusion,
    "sdxl": _seeded(sdxl),
    "flux": _seeded(flux),
    "stable-diffusion-3": _seeded(stable_diffusion_3),
    "pixart-sigma": _seeded(pixart_sigma),
    "sana": _seeded(sana),
    "sana-sprint": _seeded(sana_sprint),
    "z-image": _seeded(z_image),
    "flux2": _seeded(flux2),
    "flux2-klein": _seeded(flux2_klein),
    "qwen-image": _seeded(qwen_image),
    "chroma": _seeded(chroma),
    "edm": _seeded(edm),
    "ltx": _seeded(ltx),
    "wan": _seeded(wan),
}
"""Family -> its tiny pipeline, saved to a folder if one is given."""


def each(*quick: str) -> list[Any]:
    """Parameters of a test of all families, which is slow but for some."""
    return [pytest.param(one, marks=[] if one in quick else [pytest.mark.slow]) for one in TINY]


def tiny(family: str, folder: Path | None = None) -> Any:
    """The tiny pipeline of ``family``, saved to ``folder``, too."""
    return TINY[family](folder)


def tiny_ltx(**autoencoder: Any) -> Any:
    """LTX-Video with other settings of its autoencoder."""
    return _seeded(lambda: ltx(**autoencoder))(None)


def tiny_wan_22(folder: Path | None = None, layers: int = 2) -> Any:
    """Wan 2.2 with two transformers, the second of so many layers."""
    return _seeded(lambda: wan_22(layers))(folder)


def tiny_wan_22_5b(folder: Path | None = None) -> Any:
    """Wan 2.2 with a transformer that is told the time of every token."""
    return _seeded(wan_22_5b)(folder)


def tiny_flux2_klein() -> Any:
    """The pipeline of a distilled FLUX.2 klein."""
    return _seeded(lambda: flux2_klein(is_distilled=True))(None)


def tiny_flux_schnell() -> Any:
    """The pipeline of FLUX.1-schnell: no guidance, no shift with the resolution."""
    return _seeded(lambda: flux(guidance_embeds=False))(None)
