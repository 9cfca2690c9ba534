"""CLIP models that score how well an image fits its prompt, such as PickScore (arXiv 2305.01569).

The score is the one of PickScore's model card: exp(logit_scale) · cos(image, text), with the image
prepared by Pillow as the model's own image processor does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ttsnap.diffusion.loading import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.checkpoint import load_checkpoint

BATCH = 64
BYTES = 256  # the least a CLIP tokenizer knows


class ClipReward:
    """A `TrainableReward` over `CLIPModel`, its tokenizer and its `CLIPImageProcessorPil`."""

    tower = "vision_model|visual_projection"

    module: Any

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str = "clip") -> None:
        self.name = name
        self.module = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.processor = processor
        factor = model.logit_scale.exp().item()
        self.scale = f"cosine of image and text times {factor:.4g}"
        self._texts: dict[str, torch.Tensor] = {}
        self._warned = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        revision: str | None = None,
        device: str = "cpu",
        checkpoint: Path | None = None,
        *,
        name: str = "clip",
    ) -> Self:
        """Load model, tokenizer and image processor in float32.

        Args:
            path: local folder that holds all three, or hub id.
            revision: commit of a hub id.
            device: as torch names it, or auto.
            checkpoint: folder that noise-aware finetuning wrote.
            name: as in the config.

        Raises:
            UserError: if one of the three is missing, or is not of a CLIP.
        """
        import transformers
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        transformers.logging.disable_progress_bar()
        source: dict[str, Any] = {"pretrained_model_name_or_path": path, "revision": revision}
        try:
            kind = transformers.CLIPConfig.get_config_dict(**source)[0].get("model_type")
            if kind != "clip":
                raise UserError(f"{path}: expected a CLIP model, found {kind}")
            loaded: Any = transformers.CLIPModel.from_pretrained(
                **source, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            processor: Any = CLIPImageProcessorPil.from_pretrained(**source)
        except OSError as error:
            raise UserError(f"{path}: not a CLIP reward ({str(error).splitlines()[0]})") from None
        model, info = loaded
        # What is missing from a folder, transformers makes up: random weights, an empty tokenizer.
        if info["missing_keys"]:
            raise UserError(f"{path}: the weights lack {sorted(info['missing_keys'])[0]}")
        if len(tokenizer) < BYTES:
            raise UserError(f"{path}: no tokenizer here")
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        if not all(getattr(processor, step) for step in steps):
            raise UserError(f"{path}/preprocessor_config.json: expected {', '.join(steps)}")
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return cls(model.to(torch_device(device)), tokenizer, processor, name)

    @property
    def device(self) -> torch.device:
        return self.module.logit_scale.device

    @torch.no_grad()
    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        texts = self.encode_texts(prompts)
        scores = [
            self.forward(self.pixel_values(images[start : start + BATCH]), rows)
            for start, rows in zip(range(0, len(images), BATCH), texts.split(BATCH), strict=True)
        ]
        values = torch.cat(scores).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise FloatingPointError(
                f"reward {self.name}: image {bad[0]} of {len(images)} scores {values[bad[0]]}"
            )
        return values

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; resizing is not counted."""
        from ttsnap.diffusion.flops import tflops

        pixels = self.pixel_values(np.zeros((1, height, width, 3), np.uint8))
        text = torch.ones(1, self.module.config.projection_dim, device=self.device)
        with torch.no_grad():
            return tflops(lambda: self.forward(pixels, text))

    def pixel_values(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.pixel_values`; (B, 3, h, w) float32, h and w those of the model."""
        if isinstance(images, torch.Tensor):
            pixels = self._resize_and_crop(images)
        else:
            pixels = torch.from_numpy(self._prepare(images)).to(self.device).permute(0, 3, 1, 2)
            # In double precision, then rounded, as the stock processor does.
            pixels = (pixels.double() * self.processor.rescale_factor).float()
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.processor.image_mean, self.processor.image_std)
        )
        return (pixels - mean) / std

    def _prepare(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop with the stock processor, image by image, if they do not fit."""
        height, width = images.shape[1:3]
        crop = self.processor.crop_size
        if self._resized(height, width) == (height, width) == (crop.height, crop.width):
            return np.ascontiguousarray(images)

        def prepare(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            image = self.processor.resize(
                image.transpose(2, 0, 1), self.processor.size, self.processor.resample
            )
            return self.processor.center_crop(image, crop).transpose(1, 2, 0)

        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(prepare, images)))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        size = self.processor.size
        if not size.shortest_edge:
            return size.height, size.width
        short = min(height, width)
        return (
            int(size.shortest_edge * height / short),
            int(size.shortest_edge * width / short),
        )

    def _resize_and_crop(self, images: torch.Tensor) -> torch.Tensor:
        """The stock preparation up to Pillow's rounding to 8 bits, differentiable."""
        size = self._resized(*images.shape[2:])
        if size != tuple(images.shape[2:]):
            # Unlike Pillow, torch lets bicubic overshoot.
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        crop = self.processor.crop_size
        top, left = (size[0] - crop.height) // 2, (size[1] - crop.width) // 2
        return images[:, :, top : top + crop.height, left : left + crop.width]

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (B, D) of texts, truncated to the model's context.

        Warns once for the reward if a text is longer than that.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            tokens = self._tokenize(batch)
            features = self.module.get_text_features(**tokens).pooler_output
            features = features / features.norm(dim=-1, keepdim=True)
            self._texts.update(zip(batch, features, strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def _tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        limit = self.module.config.text_config.max_position_embeddings
        limit = min(limit, self.tokenizer.model_max_length)
        if not self._warned:
            lengths = [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]
            if max(lengths) > limit:
                self._warned = True
                text = texts[int(np.argmax(lengths))]
                warnings.warn(
                    f"reward {self.name} reads {limit} tokens of a prompt and no more; one has "
                    f"{max(lengths)}: {text[:60]!r}…",
                    stacklevel=4,
                )
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        return {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        images = self.module.get_image_features(pixel_values=pixel_values).pooler_output
        images = images / images.norm(dim=-1, keepdim=True)
        return self.module.logit_scale.exp() * (images * texts).sum(-1)
