"""What rewards share that ask a Qwen-VL-shaped model on this machine: loading, the chat, batches.

The text of a question is one piece of the chat between control tokens, so that it becomes the same
tokens as in the rendered chat, except that no text of a prompt becomes a control token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt

from ttsnap.config import Settings
from ttsnap.diffusion.devices import torch_device
from ttsnap.diffusion.loading import no_warnings
from ttsnap.errors import UserError, read_text
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.stock import load_processor, load_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

PLACE = "\ufdd0"  # where the text goes in the rendered chat; Unicode reserves it for such uses


class LocalOptions(Settings):
    """Of every vision-language model on this machine."""

    batch_size: PositiveInt = Field(4, description="Images looked at at once.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto: as they are stored."
    )


class LocalChat(ABC):
    """A `Reward` over a Qwen-VL-shaped model up to what it is asked and how it answers."""

    Options: ClassVar[type[LocalOptions]]
    scale: str

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: Any, name: str = "chat"
    ) -> None:
        """Take over a model with its tokenizer, which has a chat template, and image processor.

        Raises:
            UserError: if the tokenizer is none of a Qwen-VL.
        """
        self.name = name
        self.options = options
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.processor = processor
        self._head, self._middle, self._tail = self._chat()

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "chat",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load the model at ``settings.path``, its tokenizer and its image processor for Pillow.

        The stock processor is not used: for videos it needs torchvision.

        Raises:
            UserError: if one is missing, or not of a Qwen-VL.
        """
        options = read_options(cls.Options, settings, name)
        path, revision = required_path(settings, name), settings.revision
        if checkpoint is not None:
            raise UserError(f"{checkpoint}: reward {name} cannot be finetuned")
        model, tokenizer, processor = load_chat(path, revision, options.dtype)
        return cls(model.to(torch_device(device)), tokenizer, processor, options, name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        values = self._by_batch(images, prompts).numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise FloatingPointError(
                f"reward {self.name}: image {bad[0]} of {len(images)} scores {values[bad[0]]}"
            )
        return values

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; the few tokens of the prompt itself are not counted."""
        from ttsnap.diffusion.flops import tflops

        black = np.zeros((1, height, width, 3), np.uint8)
        return tflops(lambda: self._scores(black, [""]))

    @abstractmethod
    def _messages(self) -> list[Mapping[str, Any]]:
        """The chat, with one image and ``PLACE`` for the text, up to the model's answer."""

    @abstractmethod
    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        """Scores (B,) float32 of one batch."""

    def _by_batch(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        size = self.options.batch_size
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        return torch.cat([self._scores(images[part], prompts[part]).cpu() for part in parts])

    @torch.inference_mode()
    def _next(self, images: NDArray[np.uint8], texts: Sequence[str]) -> torch.Tensor:
        """Logits (B, vocabulary) float32 of the token that comes after each chat."""
        return self.model(**self._inputs(images, texts), logits_to_keep=1).logits[:, -1].float()

    def _inputs(self, images: NDArray[np.uint8], texts: Sequence[str]) -> Any:
        """What the model takes; no text becomes a control token."""
        vision = self.processor(
            list(images), input_data_format="channels_last", return_tensors="pt"
        )
        image = self.model.config.image_token_id
        tokens = vision["image_grid_thw"].prod(-1) // self.processor.merge_size**2
        rows = [
            [*self._head, *[image] * count, *self._middle, *self._encode(text), *self._tail]
            for count, text in zip(tokens.tolist(), texts, strict=True)
        ]
        padded = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        types = (padded["input_ids"] == image).int()
        inputs = {**padded, **vision, "mm_token_type_ids": types}
        return {key: value.to(self.model.device) for key, value in inputs.items()}

    def _chat(self) -> list[list[int]]:
        """Tokens before the image, between image and text, and after the text."""
        image = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        try:
            text = self.tokenizer.apply_chat_template(
                self._messages(), tokenize=False, add_generation_prompt=True
            )
            head, rest = text.split(image)
            middle, tail = rest.split(PLACE)
        except ValueError:
            raise UserError(
                f"reward {self.name}: the tokenizer has no chat template for one image and a text"
            ) from None
        return [
            self.tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (head, middle, tail)
        ]

    def _encode(self, text: str) -> list[int]:
        tokens = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tokens["input_ids"]


def asked(system: str | None = None, text: str = PLACE) -> list[Mapping[str, Any]]:
    """A chat of an optional system message, and of one user message: the image, then the text."""
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    user: Mapping[str, Any] = {"role": "user", "content": parts}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def load_chat(path: str, revision: str | None, dtype: str) -> tuple[Any, Any, Any]:
    """A Qwen-VL with its tokenizer and its image processor.

    Raises:
        UserError: one of them is missing, or not of a Qwen-VL.
    """
    from transformers import AutoImageProcessor, AutoModelForImageTextToText
    from transformers.utils.logging import disable_progress_bar

    tokenizer = load_tokenizer(path, revision)
    processor = load_processor(AutoImageProcessor, path, revision, backend="pil")
    disable_progress_bar()
    with no_warnings():
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                path,
                revision=revision,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not a Qwen-VL ({reason})") from None
    model, info = loaded
    if info["missing_keys"]:
        raise UserError(f"{path}: the weights lack {sorted(info['missing_keys'])[0]}")
    if not (hasattr(model.config, "image_token_id") and hasattr(processor, "merge_size")):
        raise UserError(f"{path}: expected a Qwen-VL, found {model.config.model_type}")
    return model, tokenizer, processor


def read_instruction(file: str, place: str, prompt: str) -> str:
    """The text of an instruction, in which ``prompt`` stands for that of an image.

    Raises:
        UserError: it cannot be read, or the prompt has no place; ``place`` names setting and file.
    """
    text = read_text(Path(file), place)
    if prompt not in text:
        raise UserError(f"{place}: has no {prompt}")
    return text
