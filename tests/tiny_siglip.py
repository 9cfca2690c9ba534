"""A tiny, randomly initialised SigLIP of the real classes."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIZE, CONTEXT = 24, 16


def tiny_siglip(folder: Path) -> Path:
    """Write model, tokenizer (one token per byte) and image processor into ``folder``."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT)
    tokenizer.model_input_names = ["input_ids"]  # as in SigLIP's checkpoints
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2}
    text = {**tower, "vocab_size": len(pieces), "max_position_embeddings": CONTEXT}
    vision = {**tower, "image_size": SIZE, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        # At its usual scale an untrained tower is so flat that a reward could be any constant.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4)
        model.logit_scale.data.fill_(2.5)
        model.logit_bias.data.fill_(-3.0)
    for part in (model, tokenizer, SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})):
        part.save_pretrained(folder)
    return folder
