"""A vision-language model on this machine as judge: Qwen2-VL, Qwen2.5-VL, Qwen3-VL.

It is asked for one whole number from 0 to 10, and the score is the mean of that number under the
model's own probabilities, as in G-Eval (arXiv 2303.16634, section 2): no text is sampled or parsed,
images that would get the same number still differ, and one image takes a single pass over its
prompt and one further token instead of the hundreds of a written answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt

from ttsnap.diffusion.devices import torch_device
from ttsnap.diffusion.loading import no_warnings
from ttsnap.errors import UserError
from ttsnap.rewards.judges.rubric import RubricOptions, read_rubric
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.stock import load_processor, load_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

log = logging.getLogger(__name__)

SURE = 0.5  # probability that the answer starts with a digit; below it, it is something else
PLACE = "\ufdd0"  # where the prompt goes in the rendered chat; Unicode reserves it for such uses


class QwenOptions(RubricOptions):
    batch_size: PositiveInt = Field(4, description="Images graded at once.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; auto: as they are stored."
    )


class QwenJudge:
    """A `Reward` over a Qwen-VL-shaped model; a failed grade is NaN."""

    Options = QwenOptions

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: QwenOptions, name: str = "qwen"
    ) -> None:
        """Take over a model with its tokenizer, which has a chat template, and image processor.

        Raises:
            UserError: if the tokenizer is none of a Qwen-VL, or the rubric cannot be read.
        """
        from transformers import GenerationConfig

        self.name = name
        self.options = options
        self.rubric, self.metric = read_rubric(options, name)
        self.scale = f"{self.metric}, 0 to 10, mean over the model's answers"
        self.model = model.eval().requires_grad_(False)
        # A checkpoint brings its own way to sample text, which would change the probabilities.
        model.generation_config = GenerationConfig(max_new_tokens=2)
        self.tokenizer = tokenizer
        self.processor = processor
        self._head, self._middle, self._tail = self._chat()
        self._digits = [tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "qwen",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load the model at ``settings.path``, its tokenizer and its image processor for Pillow.

        The stock processor is not used: for videos it needs torchvision.

        Raises:
            UserError: if one is missing, or not of a Qwen-VL.
        """
        from transformers import AutoImageProcessor, AutoModelForImageTextToText
        from transformers.utils.logging import disable_progress_bar

        options = read_options(QwenOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        if checkpoint is not None:
            raise UserError(f"{checkpoint}: reward {name} cannot be finetuned")
        tokenizer = load_tokenizer(path, revision)
        processor = load_processor(AutoImageProcessor, path, revision, backend="pil")
        disable_progress_bar()
        with no_warnings():
            try:
                loaded: Any = AutoModelForImageTextToText.from_pretrained(
                    path,
                    revision=revision,
                    dtype=options.dtype,
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
        return cls(model.to(torch_device(device)), tokenizer, processor, options, name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Grade images.

        Args:
            images: (B, H, W, 3).
            prompts: B texts, one for each image.

        Returns:
            (B,), 0 to 10; NaN where the model answers with something else than a number, which the
            log explains.
        """
        size = self.options.batch_size
        scores = np.empty(len(images), np.float32)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            scores[part], sure = self._grade(images[part], prompts[part])
            for index in start + np.flatnonzero(sure < SURE):
                log.warning(
                    "reward %s: image %d of %d has no grade: a number has only %.0f %% of the "
                    "probability as an answer",
                    *(self.name, index, len(images), 100 * sure[index - start]),
                )
        return scores

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; the prompt's few tokens are not counted, the instruction's are."""
        from ttsnap.diffusion.flops import tflops

        black = np.zeros((1, height, width, 3), np.uint8)
        return tflops(lambda: self._logits(black, [""]))

    def _grade(
        self, images: NDArray[np.uint8], prompts: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores, NaN where not sure, and the probability that the answer starts with a digit.

        The answer 10 is 1 followed by 0, as Qwen's tokenizers split numbers into digits.
        """
        first, second = self._logits(images, prompts).softmax(-1)[..., self._digits]
        sure = first.sum(-1)
        mean = first @ torch.arange(10.0, device=first.device) + 9 * first[:, 1] * second[:, 0]
        scores = torch.where(sure < SURE, torch.nan, mean / sure)
        return scores.cpu().numpy(), sure.cpu().numpy()

    @torch.inference_mode()
    def _logits(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        """Logits (2, B, vocabulary) of the answer's first token, and of the one after a 1."""
        answer = self.model.generate(
            **self._inputs(images, prompts),
            prefix_allowed_tokens_fn=lambda row, tokens: [self._digits[1]],
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack(answer.logits).float()

    def _inputs(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> Any:
        """What the model takes; no text of a prompt becomes a control token."""
        vision = self.processor(
            list(images), input_data_format="channels_last", return_tensors="pt"
        )
        image = self.model.config.image_token_id
        tokens = vision["image_grid_thw"].prod(-1) // self.processor.merge_size**2
        rows = [
            [*self._head, *[image] * count, *self._middle, *self._encode(prompt), *self._tail]
            for count, prompt in zip(tokens.tolist(), prompts, strict=True)
        ]
        texts = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        types = (texts["input_ids"] == image).int()
        inputs = {**texts, **vision, "mm_token_type_ids": types}
        return {key: value.to(self.model.device) for key, value in inputs.items()}

    def _chat(self) -> list[list[int]]:
        """Tokens before the image, between image and prompt, and after the prompt."""
        messages = [
            {"role": "system", "content": self.rubric.question(self.metric)},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PLACE}]},
        ]
        image = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
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

    def _encode(self, prompt: str) -> list[int]:
        tokens = self.tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)
        return tokens["input_ids"]
