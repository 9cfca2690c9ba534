"""HPSv3 (arXiv 2508.03789): human preference, by a small head over a Qwen2-VL.

Read for it: the package hpsv3 1.0.0 and the transformers 4.45.2 that it asks for. The instruction
has a token of its own, ``<|Reward|>``; of the network's last state at that token the head makes a
mean and a deviation, of which the mean is the score. The package passes embeddings, not tokens, to
the decoder, which then counts positions one by one, also within the image. Its checkpoint holds the
whole network; tokenizer, image processor and config are those of the Qwen2-VL that it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field, PositiveInt

from ttsnap.config import Text
from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.judges.local import PLACE, LocalChat, LocalOptions, asked, read_instruction
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.stock import (
    file_in,
    load_model,
    load_processor,
    load_state,
    load_tokenizer,
    model_type,
    read_weights,
    repository,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

TOKEN = "<|Reward|>"
PROMPT = "{text_prompt}"
HEAD = "rm_head."


class Hpsv3Options(LocalOptions):
    base: Text = Field(
        description="The Qwen2-VL that config, tokenizer and image processor are from, "
        "Qwen/Qwen2-VL-7B-Instruct: a local folder or ORG/NAME@COMMIT."
    )
    instruction: Text = Field(
        description=f"File with the text that the model was trained on, with {PROMPT} for the "
        f"prompt and then {TOKEN}: INSTRUCTION and prompt_with_special_token of "
        "hpsv3/dataset/data_collator_qwen.py, one after the other."
    )
    file: Text = Field("HPSv3.safetensors", description="Checkpoint in the folder at path.")
    pixels: PositiveInt = Field(
        256 * 28 * 28, description="Area in pixels that images are resized to, about."
    )


class Hpsv3(LocalChat):
    """A `Reward`: the mean preference by the head of HPSv3."""

    Options = Hpsv3Options
    scale = "mean of a normal distribution of preference, about -10 to 15"

    def __init__(
        self,
        model: Any,
        head: torch.nn.Module,
        tokenizer: Any,
        processor: Any,
        options: Hpsv3Options,
        name: str = "hpsv3",
    ) -> None:
        """See `LocalChat`.

        Args:
            model: Qwen2-VL without its language head.
            head: of the hidden size to mean and deviation, in float32.
            tokenizer: knows the token of the instruction.
            processor: of images.
            options: name the instruction's file.
            name: as in the config.

        Raises:
            UserError: as there, or if the instruction cannot be read or lacks a part.
        """
        place = f"rewards.{name}.options.instruction: {options.instruction}"
        text = read_instruction(options.instruction, place, PROMPT)
        self._asked, token, self._rest = text.partition(TOKEN)
        if not token or PROMPT not in self._asked or TOKEN in self._rest:
            raise UserError(f"{place}: expected {PROMPT} and then, once, {TOKEN}")
        super().__init__(model, tokenizer, processor, options, name)
        self.head = head.eval().requires_grad_(False)
        self._token = tokenizer.convert_tokens_to_ids(TOKEN)

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "hpsv3",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load the checkpoint at ``settings.path`` and all else from ``options.base``.

        Raises:
            UserError: if one is missing, or they do not belong together.
        """
        from transformers import AutoImageProcessor, Qwen2VLConfig, Qwen2VLModel

        options = read_options(Hpsv3Options, settings, name)
        path = required_path(settings, name)
        if checkpoint is not None:
            raise UserError(f"{checkpoint}: reward {name} cannot be finetuned")
        source = repository(options.base, f"rewards.{name}.options.base")
        if (kind := model_type(*source)) != "qwen2_vl":
            raise UserError(f"{source[0]}: expected a Qwen2-VL, found {kind}")
        area = {"shortest_edge": options.pixels, "longest_edge": options.pixels}
        processor = load_processor(AutoImageProcessor, *source, backend="pil", size=area)
        tokenizer = load_tokenizer(*source)
        tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
        local = Path(path)
        file = local if local.is_file() else file_in(path, settings.revision, options.file)
        body, head = _parts(read_weights(file))
        config = Qwen2VLConfig.from_pretrained(source[0], revision=source[1])
        config.text_config.vocab_size = len(tokenizer)
        stored = next(iter(body.values()), torch.empty(0)).dtype
        dtype = stored if options.dtype == "auto" else getattr(torch, options.dtype)
        model = load_model(
            Qwen2VLModel, None, None, file, config=config, state_dict=body, dtype=dtype
        )
        network = head_of(config.text_config.hidden_size)
        load_state(network, head, file)
        where = torch_device(device)
        return cls(model.to(where), network.to(where), tokenizer, processor, options, name)

    def _messages(self) -> list[Mapping[str, Any]]:
        return asked(text=f"{PLACE}{TOKEN}{self._rest}")

    @torch.inference_mode()
    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        texts = [self._asked.replace(PROMPT, prompt) for prompt in prompts]
        inputs = self._inputs(images, texts)
        tokens = inputs["input_ids"]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        states = self.model(**inputs, position_ids=places.expand(3, *tokens.shape))[0]
        return self.head(states[tokens == self._token].float())[:, 0]


def head_of(size: int) -> torch.nn.Sequential:
    """The network over a state of ``size`` numbers, without the dropout of its training."""
    return torch.nn.Sequential(
        torch.nn.Linear(size, 1024),
        torch.nn.ReLU(),
        torch.nn.Identity(),
        torch.nn.Linear(1024, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 2),
    )


def _parts(
    state: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of the network, by their names in transformers 5, and of the head, in float32."""
    body, head = {}, {}
    for name, tensor in state.items():
        if name.startswith(HEAD):
            head[name.removeprefix(HEAD)] = tensor.float()
        elif name.startswith("model."):
            body[f"language_model.{name.removeprefix('model.')}"] = tensor
        elif name.startswith("visual."):
            body[name] = tensor
    return body, head
