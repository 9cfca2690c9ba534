"""Quantized weights: in GGUF files, by torchao, by casts, and by bitsandbytes on a GPU."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict

from tests.sampling import images_of
from tests.tiny_families import tiny
from ttsnap.config import GeneratorLora, Model, Runtime, Sampling
from ttsnap.diffusion import load_sampler
from ttsnap.diffusion.costs import costs
from ttsnap.diffusion.sources import described, find_family, model_files
from ttsnap.errors import UserError
from ttsnap.run.trained import difference, made_for

needs_torchao = pytest.mark.skipif(
    find_spec("torchao") is None, reason="torchao is not installed: pip install 'ttsnap[quant]'"
)
needs_gguf = pytest.mark.skipif(
    find_spec("gguf") is None, reason="gguf is not installed: pip install 'ttsnap[quant]'"
)
SLOWER = ("stable-diffusion-3", "flux2-klein", "chroma", "sana", "sdxl", "ltx", "wan")
"""Families that repeat what two others show."""

GUIDED = {"steps": 3, "height": 32, "width": 32, "guidance_scale": 2.0}


def write_gguf(file: Path, module: torch.nn.Module, kind: str = "Q8_0") -> None:
    """With weights of linear layers, as far as their rows divide into blocks, in so few bits."""
    import gguf

    writer = gguf.GGUFWriter(str(file), "tiny")
    quantized = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[quantized]
    layers = dict(module.named_modules())
    for name, tensor in module.state_dict().items():
        values, layer = tensor.numpy(), layers[name.rpartition(".")[0]]
        linear = isinstance(layer, torch.nn.Linear) and values.ndim == 2
        if linear and values.shape[1] % block == 0:
            packed = gguf.quants.quantize(values, quantized)
            writer.add_tensor(name, packed, raw_dtype=quantized)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sampler_of(folder: Path, runtime: Runtime | None = None, **model: Any) -> Any:
    given = {"path": str(folder), "dtype": "float32", **model}
    return load_sampler(Model.model_validate(given), GUIDED, runtime or Runtime())


def apart(one: Any, other: Any) -> float:
    return float(np.abs(images_of(one).astype(int) - images_of(other)).mean())


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    tiny("flux", folder)
    return folder


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    tiny("sdxl", folder)
    return folder


@pytest.fixture(scope="module")
def in_gguf(flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer of ``flux`` in 8 bits."""
    file = tmp_path_factory.mktemp("gguf") / "flux-Q8_0.gguf"
    write_gguf(file, tiny("flux").transformer)
    return file


@needs_torchao
@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_int8_by_torchao(family: str, request: pytest.FixtureRequest) -> None:
    """Denoiser and text encoders; prices are those of the model, pictures nearly so."""
    from torchao.quantization import Int8Tensor

    folder = request.getfixturevalue(family)
    plain, packed = sampler_of(folder), sampler_of(folder, quantization="int8")
    for part in (packed.denoiser, packed.pipe.text_encoder, packed.pipe.text_encoder_2):
        linears = [layer for layer in part.modules() if isinstance(layer, torch.nn.Linear)]
        assert any(isinstance(layer.weight, Int8Tensor) for layer in linears)
    assert packed.dtype == torch.float32
    assert 0 < apart(plain, packed) < 3
    assert costs(packed) == costs(plain)


@needs_torchao
def test_int8_of_a_denoiser_in_one_file(flux: Path, tmp_path: Path) -> None:
    file = tmp_path / "transformer.safetensors"
    shutil.copy(flux / "transformer/diffusion_pytorch_model.safetensors", file)
    one = sampler_of(file, components=str(flux), quantization="int8")
    assert apart(one, sampler_of(flux, quantization="int8")) == 0


def test_fp8_by_casts(flux: Path) -> None:
    plain, cast = sampler_of(flux), sampler_of(flux, quantization="fp8")
    assert cast.dtype == torch.float32
    assert cast.denoiser.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    assert 0 < apart(plain, cast) < 6
    assert costs(cast) == costs(plain)


@needs_gguf
def test_a_gguf_over_its_components(flux: Path, in_gguf: Path) -> None:
    """Its weights are those in the file, to the last bit; the rest is as in the folder."""
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    given = {"path": str(in_gguf), "components": str(flux)}
    assert find_family(**given) == "flux"
    assert next(iter(model_files(Model.model_validate(given)))) == in_gguf.name
    packed, plain = sampler_of(in_gguf, components=str(flux)), sampler_of(flux)
    weight = packed.denoiser.transformer_blocks[0].attn.to_q.weight
    assert isinstance(weight, GGUFParameter)
    assert 0 < apart(plain, packed) < 3
    assert costs(packed) == costs(plain)
    unpacked = sampler_of(flux)
    with torch.no_grad():
        state = packed.denoiser.state_dict()
        for name, parameter in unpacked.denoiser.named_parameters():
            parameter.copy_(dequantize_gguf_tensor(state[name]))
    assert apart(unpacked, packed) == 0


@needs_gguf
@pytest.mark.parametrize(
    "family",
    [
        "z-image",
        "qwen-image",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER),
    ],
)
def test_families_in_gguf(family: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "parts", tmp_path / "model.gguf"
    pipe = tiny(family, folder)
    write_gguf(file, getattr(pipe, "unet", None) or pipe.transformer, "Q4_0")
    assert find_family(str(file), components=str(folder)) == family
    sampler = sampler_of(file, components=str(folder))
    assert any(parameter.dtype == torch.uint8 for parameter in sampler.denoiser.parameters())
    assert images_of(sampler).std() > 0


@needs_gguf
def test_gguf_files_that_cannot_be(flux: Path, in_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither configs nor tokenizers; name a folder"):
        sampler_of(in_gguf, family="flux")
    with pytest.raises(UserError, match="is quantized already; fp8 cannot be had"):
        sampler_of(in_gguf, components=str(flux), quantization="fp8")
    (tmp_path / "damaged.gguf").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"damaged\.gguf: not a \.gguf file"):
        sampler_of(tmp_path / "damaged.gguf", components=str(flux))
    with pytest.raises(UserError, match=r"missing\.gguf: no such file"):
        sampler_of(tmp_path / "missing.gguf", components=str(flux))
    write_gguf(tmp_path / "half.gguf", tiny("flux").transformer.transformer_blocks)
    with pytest.raises(UserError, match=r"half\.gguf lacks weights of a FluxTransformer2DModel"):
        sampler_of(tmp_path / "half.gguf", components=str(flux))
    pixart = tmp_path / "pixart"
    write_gguf(tmp_path / "pixart.gguf", tiny("pixart-sigma", pixart).transformer)
    with pytest.raises(UserError, match=r"a PixArtTransformer2DModel is read from \.safetensors"):
        sampler_of(tmp_path / "pixart.gguf", components=str(pixart))


def lora_of(flux: Path, folder: Path) -> str:
    """A LoRA with random updates of the attention of ``flux``."""
    pipe = tiny("flux")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe.transformer.add_adapter(
            LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_out.0"])
        )
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.transformer))
    pipe.save_lora_weights(folder, transformer_lora_layers=layers)
    return str(folder)


@pytest.mark.parametrize(
    "kind",
    [pytest.param("int8", marks=needs_torchao), pytest.param("gguf", marks=needs_gguf)],
)
def test_loras_of_quantized_weights(
    kind: str, flux: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Two of them change pictures as they do those of plain weights."""
    loras = [GeneratorLora(path=lora_of(flux, tmp_path), scale=scale) for scale in (2.0, 3.0)]
    plain, tuned = sampler_of(flux), sampler_of(flux, loras=loras)
    changed = apart(plain, tuned)
    given = {"path": flux, "quantization": kind}
    if kind == "gguf":
        given = {"path": request.getfixturevalue("in_gguf"), "components": str(flux)}
    packed = load_sampler(
        Model.model_validate(
            {key: str(value) for key, value in given.items()} | {"dtype": "float32", "loras": loras}
        ),
        GUIDED,
        Runtime(),
    )
    assert changed > 5
    assert apart(tuned, packed) < changed / 3


def test_what_records_say() -> None:
    model = Model(path="org/name", revision="0" * 40, family="flux", quantization="int8")
    assert described(model) == f"org/name@{'0' * 40} in int8"
    plain = model.model_copy(update={"quantization": None})
    assert described(plain) == f"org/name@{'0' * 40}"
    assert "quantization" not in plain.model_dump()
    given = [made_for(one, Sampling(), {}) for one in (plain, model)]
    assert "quantization" in str(difference(*given))


def test_quantizers_that_are_not_there(flux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"model\.quantization: bnb-nf4 needs a GPU"):
        sampler_of(flux, quantization="bnb-nf4")
    monkeypatch.setattr("ttsnap.diffusion.quantization.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"int8 needs torchao: pip install 'ttsnap\[quant\]'"):
        sampler_of(flux, quantization="int8")


@pytest.mark.skipif(find_spec("gguf") is not None, reason="gguf is installed")
def test_a_gguf_without_its_package(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UserError, match=r"needs gguf: pip install 'ttsnap\[quant\]'"):
        sampler_of(tmp_path / "model.gguf", components="nowhere")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["bnb-int8", "bnb-nf4"])
def test_bitsandbytes(kind: str, flux: Path) -> None:
    gpu = Runtime(device="cuda")
    plain = sampler_of(flux, gpu, dtype="bfloat16")
    packed = sampler_of(flux, gpu, dtype="bfloat16", quantization=kind)
    assert 0 < apart(plain, packed) < 10
    assert costs(packed) == costs(plain)
