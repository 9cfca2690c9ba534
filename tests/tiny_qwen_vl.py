"""Tiny, randomly initialised Qwen-VL models of the real classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForImageTextToText, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

CONTROLS = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOWER = {"intermediate_size": 64, "num_heads": 2, "depth": 2, "patch_size": 4}
VISION = {
    "Qwen2VL": {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
    "Qwen2_5_VL": {"window_size": 16, "fullatt_block_indexes": [1]},
    "Qwen3VL": {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
}
"""What differs between the generations, by the name that their classes start with."""


def tiny_qwen_vl(
    folder: Path, family: str = "Qwen2_5_VL", seed: int = 0, words: Sequence[str] = ()
) -> Path:
    """Write model, tokenizer (one token per byte, control and word) and image processor."""
    controls = [f"<|{name}|>" for name in CONTROLS]
    pieces = [*sorted(ByteLevel.alphabet()), *controls]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], extra_special_tokens=controls, chat_template=TEMPLATE
    )
    tokenizer.add_tokens(list(words))
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "bos_token_id": None,
        "eos_token_id": vocabulary["<|im_end|>"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
    }
    vision = {"hidden_size": 32, "out_hidden_size": 32} | TOWER | VISION[family]
    config = getattr(transformers, f"{family}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=vocabulary["<|image_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
    )
    processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 64 * 64}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    # At its usual scale an untrained model hardly sees the picture.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder
