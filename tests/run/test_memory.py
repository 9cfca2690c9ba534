"""What a search needs of memory: what is counted, where it lies, and what would help."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny_families import tiny
from ttsnap.config import Config, load_config
from ttsnap.diffusion.architectures import ARCHITECTURES
from ttsnap.diffusion.memory import Footprint, Weights, _Living, footprint
from ttsnap.run.memory import Memory, memory, verifier_bytes

GB = 1e9
ROUND = Footprint(
    denoisers=(Weights(linear=5_000_000_000, convolved=0, other=0),),
    vae=Weights(linear=0, convolved=100_000_000, other=0),
    texts=(Weights(4_000_000_000, 0, 0), Weights(500_000_000, 0, 500_000_000)),
    denoise=0.25 * GB,
    decode=0.5 * GB,
)
"""With 10 GB of a denoiser in half precision, text encoders of 8 and 2, and 0.2 of a VAE."""


def needs(**settings: object) -> Memory:
    """With a verifier of 1 GB."""
    model = {"path": "org/name", "revision": "0" * 40, "family": "flux", "dtype": "bfloat16"}
    runtime = {"device": "cuda", "batch_size": 4, **settings}
    model |= {name: runtime.pop(name) for name in ("quantization",) if name in runtime}
    return Memory(load_config({"model": model, "runtime": runtime}), ROUND, 1 * GB)


@pytest.mark.parametrize(
    ("settings", "gpu", "main"),
    [
        ({}, 10 + 10 + 0.2 + 4 + 1, 0),
        ({"release_text_encoders": True}, 10 + 0.2 + 10 + 1, 10),
        ({"release_text_encoders": True, "batch_size": 16}, 10 + 0.2 + 16 + 1, 10),
        ({"vae_slicing": True}, 10 + 10 + 0.2 + 2 + 1, 0),
        ({"offload": "model"}, 10 + 2 + 1, 20.2),
        ({"offload": "group"}, 0.2 + 4 + 1, 20),
        ({"quantization": "int8"}, 5 + 4 + 1.5 + 0.2 + 4 + 1, 0),
        ({"quantization": "fp8"}, 5 + 10 + 0.2 + 4 + 1, 0),
        ({"device": "cpu"}, 0, 10 + 10 + 0.2 + 4 + 1),
    ],
)
def test_where_it_lies(settings: dict[str, object], gpu: float, main: float) -> None:
    found = needs(**settings)
    assert found.gpu / GB == pytest.approx(gpu)
    assert found.main / GB == pytest.approx(main)


def test_what_brings_it_under_a_limit() -> None:
    assert dict(needs().savings(14 * GB)) == pytest.approx(
        {
            "runtime.offload: model": 13 * GB,
            "model.quantization: bnb-nf4": (9.5 * 4.5 / 8 + 1 + 0.2 + 4 + 1) * GB,
            "runtime.offload: group": 5.2 * GB,
        }
    )
    # Neither alone; of all that was tried only what is needed is left.
    [(text, size)] = needs().savings(2.5 * GB)
    assert text == "runtime.offload: group, runtime.batch_size: 1"
    assert size == pytest.approx((0.2 + 1 + 1) * GB)
    assert not list(needs().savings(2 * GB))


def test_what_a_call_holds_at_once() -> None:
    """Not its weights, nor what views share, nor what is dropped before more is made."""
    with torch.device("meta"), torch.inference_mode():
        layer, counter = torch.nn.Linear(10, 1000), _Living()
        given = torch.empty(2, 10)
        with counter:
            hidden = layer(given).view(1000, 2)  # 2000 numbers
            hidden = hidden.relu()  # 2000 more, then the first are dropped
            hidden = hidden * 2
            del hidden
    assert counter.most == 4 * 4000
    assert counter.now == 0


def test_sdxl_is_counted_as_it_was_measured() -> None:
    """docs/gpu.md: 26.6 to 29.4 GB with a verifier, and prompts that were encoded before."""
    found = memory(load_config(Path("config/sdxl.yaml")), "sdxl")
    texts = [text.linear + text.convolved + text.other for text in found.shapes.texts]
    assert [count / 1e6 for count in texts] == pytest.approx([123.06, 694.66], abs=0.01)
    assert (found.gpu - sum(found.texts)) / GB == pytest.approx(27.5, rel=0.1)


def test_a_model_in_a_folder_and_verifiers(tmp_path: Path) -> None:
    pipe = tiny("flux", tmp_path)
    model = {"path": str(tmp_path), "preview": None}
    found = memory(load_config({"model": model, "runtime": {"device": "cpu"}}))
    for weights, part in (
        (found.denoisers[0], pipe.transformer),
        (sum(found.texts), torch.nn.ModuleList([pipe.text_encoder, pipe.text_encoder_2])),
        (found.vae, pipe.vae),
    ):
        assert weights == 4 * sum(one.numel() for one in part.parameters())
    assert found.gpu == 0 < found.main
    assert verifier_bytes(Config(), Config().search.reward) == found.verifier > 1e5
    paths = {"a": "yuvalkirstain/PickScore_v1", "b": "org/unknown", "c": None}
    given = {
        name: {"kind": "clip" if path else "brightness", "path": path, "revision": "0" * 40}
        for name, path in paths.items()
    }
    config = load_config({"rewards": given, "search": {"reward": "a"}})
    assert [verifier_bytes(config, name) for name in paths] == [3.944e9, None, 0]


def test_published_models_have_text_encoders() -> None:
    without = [name for name, one in ARCHITECTURES.items() if not one.texts]
    assert without == ["edm"]
    counted = footprint(ARCHITECTURES["wan-1.3b"], 64, 64, 5.0, 5)
    [text] = counted.texts
    assert text.linear + text.other == pytest.approx(5.68e9, rel=0.01)
