"""Writes the table of docs/models.md: what each published model is, and what it costs.

    python docs/models.py

Pipelines and what a family can do come from the registry, steps and guidance from ``config/``,
sizes, parameters and TFLOPs from the architectures that the package counts on shapes alone. Only
what no code knows stands here: licences, text encoders, tiny decoders, and steps of models
without a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ttsnap.config import load_config
from ttsnap.diffusion.families import SAMPLERS
from ttsnap.diffusion.published import ARCHITECTURES

DOCS = Path(__file__).parent
PAGE = DOCS / "models.md"
CONFIGS = DOCS.parent / "config"

HEAD = (
    "| model | family | pipeline | licence | steps | guidance | pixels | evaluation | decode "
    "| bf16 | 4-bit | texts | text encoders | methods | preview decoder |",
    "|---|---|---|---|--:|--:|---|--:|--:|--:|--:|--:|---|---|---|",
)


@dataclass(frozen=True)
class Known:
    """What no code knows of a published model.

    Attributes:
        family: that drives it.
        licence: of the weights.
        usual: name of its configuration in ``config/``, or else its usual steps and guidance scale.
        text: its text encoders.
        decoder: repository of a tiny autoencoder for its latents, if there is one.
        size: which of the sizes of its architecture is its own.
    """

    family: str
    licence: str
    usual: str | tuple[int, float]
    text: str
    decoder: str | None = None
    size: int = -1


RAIL_M, RAIL_PP = "CreativeML Open RAIL-M", "CreativeML Open RAIL++-M"
STABILITY, FLUX = "Stability AI Community", "FLUX.1 [dev] Non-Commercial"
SD3_TEXTS = "CLIP L and G, T5 XXL"
TAESD, TAESDXL, TAESD3, TAEF1 = (f"madebyollin/tae{name}" for name in ("sd", "sdxl", "sd3", "f1"))

MODELS = {
    "sd15": Known("stable-diffusion", RAIL_M, "sd15", "CLIP L", TAESD, size=0),
    "sdxl": Known("sdxl", RAIL_PP, "sdxl", "CLIP L and G", TAESDXL),
    "flux": Known("flux", FLUX, "flux", "CLIP L, T5 XXL", TAEF1),
    "sd35-medium": Known("stable-diffusion-3", STABILITY, "sd35", SD3_TEXTS, TAESD3),
    "sd35-large": Known("stable-diffusion-3", STABILITY, (28, 4.5), SD3_TEXTS, TAESD3),
    "pixart-sigma": Known("pixart-sigma", RAIL_PP, "pixart-sigma", "T5 XXL", TAESDXL),
    "sana": Known("sana", "NSCL v2-custom", (20, 4.5), "Gemma 2 2B"),
    "sana-sprint": Known("sana-sprint", "NSCL v2-custom", "sana-sprint", "Gemma 2 2B"),
    "z-image": Known("z-image", "Apache-2.0", "z-image-turbo", "Qwen3 4B", TAEF1),
    "flux2": Known("flux2", "FLUX.2 [dev] Non-Commercial", (50, 4.0), "Mistral Small 3.1"),
    "flux2-klein-4b": Known("flux2-klein", "Apache-2.0", "flux2-klein", "Qwen3 4B"),
    "qwen-image": Known("qwen-image", "Apache-2.0", "qwen-image", "Qwen2.5-VL 7B"),
    "chroma": Known("chroma", "Apache-2.0", "chroma", "T5 XXL", TAEF1),
    "edm": Known("edm", "as of the weights", "edm", "none"),
    "ltx": Known("ltx", "ltx-video-2b-v0.9", "ltx", "T5 XXL"),
    "wan-1.3b": Known("wan", "Apache 2.0", "wan", "UMT5 XXL"),
    "wan-2.2": Known("wan", "Apache 2.0", "wan22", "UMT5 XXL", size=0),
    "wan-2.2-5b": Known("wan", "Apache 2.0", (50, 5.0), "UMT5 XXL"),
}
"""Name of an architecture -> what is known of the model."""


def row(name: str) -> list[str]:
    """The cells of a model."""
    known = MODELS[name]
    family = SAMPLERS[known.family]
    steps, guidance = usual(known)
    height, width, frames = size(name)
    return [
        name,
        f"`{known.family}`",
        f"`{family.pipeline}`",
        known.licence,
        f"{steps}",
        f"{guidance:g}",
        f"{width} x {height}" + f" x {frames}" * (frames > 1),
        *counted(name),
        known.text,
        "all, live" if family.videos else "all",
        previews(known),
    ]


def counted(name: str) -> list[str]:
    """TFLOPs of an evaluation and a decode; gigabytes of weights, the same packed, and of texts.

    Weights are those of denoisers and autoencoder; linear layers of the former are packed.
    """
    from ttsnap.diffusion.architectures import model_tflops
    from ttsnap.diffusion.memory import footprint

    height, width, frames = size(name)
    of = (ARCHITECTURES[name], height, width, usual(MODELS[name])[1], frames)
    tflops, parts = model_tflops(*of), footprint(*of)
    whole, packed = (
        sum(one.bytes(2, bits) for one in parts.denoisers) + parts.vae.bytes(2)
        for bits in (None, "bnb-nf4")
    )
    weights = (whole, packed, sum(text.bytes(2) for text in parts.texts))
    costs = [f"{tflops[part]:.4g}" for part in ("denoise", "decode")]
    return [*costs, *(f"{size / 1e9:.1f}" for size in weights)]


def size(name: str) -> tuple[int, int, int]:
    """Height, width and frames that a model was made for."""
    return ARCHITECTURES[name].sizes[MODELS[name].size]


def usual(known: Known) -> tuple[int, float]:
    """Steps and guidance scale of a model."""
    if isinstance(known.usual, tuple):
        return known.usual
    sampling = load_config(CONFIGS / f"{known.usual}.yaml").sampling
    return sampling.steps, sampling.guidance_scale


def previews(known: Known) -> str:
    """What can show estimates of a model cheaply."""
    if not SAMPLERS[known.family].previews:
        return "none"
    return "linear" if known.decoder is None else f"linear, {known.decoder}"


def main() -> None:
    """Put the table in the place of the one on the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEAD[0])
    stop = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    lines[start:stop] = [*HEAD, *(f"| {' | '.join(row(name))} |" for name in MODELS)]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
