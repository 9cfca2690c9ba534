"""A tiny, randomly initialised CLIP reward of the real classes."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ttsnap.config import RewardSettings
from ttsnap.rewards.clip import ClipReward

SIZE = 32
CONTEXT = 48


def tiny_clip(folder: Path, seed: int = 0, *, size: int = SIZE) -> Path:
    """Write model, tokenizer (one token per byte) and image processor into ``folder``."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {
        **tower,
        "vocab_size": len(pieces),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**tower, "image_size": size, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        # At its usual scale an untrained tower is so flat that a reward could be any constant.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def clip_reward(folder: Path, checkpoint: Path | None = None) -> ClipReward:
    """The reward over what :func:`tiny_clip` wrote."""
    return ClipReward.load(RewardSettings(path=str(folder)), checkpoint=checkpoint)
