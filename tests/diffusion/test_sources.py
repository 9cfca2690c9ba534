"""What the files of a model say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.tiny_families import TINY, tiny
from ttsnap.diffusion import SAMPLERS, sampler_class
from ttsnap.diffusion.sources import PIPELINES, find_family, pick_lora, read_model, variant
from ttsnap.errors import UserError


def silent(line: str) -> None:
    raise AssertionError(line)


def test_every_family_has_its_pipeline() -> None:
    assert {sampler_class(family).pipeline_class: family for family in SAMPLERS} == PIPELINES


@pytest.mark.parametrize("family", TINY)
def test_a_folder_tells_its_family(family: str, tmp_path: Path) -> None:
    tiny(family, tmp_path)
    assert find_family(str(tmp_path)) == family
    found = read_model(str(tmp_path), say=silent)
    assert (found.family, found.path, found.dtype) == (family, str(tmp_path), "auto")
    assert read_model(f"{family}:{tmp_path}", say=silent) == found
    other = "flux" if family != "flux" else "sdxl"
    with pytest.raises(UserError, match=f"is of family {family}, not {other}$"):
        read_model(f"{other}:{tmp_path}", say=silent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no model_index.json$"),
        ("{", "expected JSON with a _class_name$"),
        ("[]", "expected JSON with a _class_name$"),
        ('{"_class_name": "KandinskyPipeline"}', "is a KandinskyPipeline, which .* SanaPipeline"),
    ],
)
def test_a_folder_without_a_family_is_one_line(text: str | None, message: str, tmp_path) -> None:
    if text is not None:
        (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        find_family(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a .safetensors file"),
        (b"\x05" + b"\0" * 7 + b"no json at all", "not a .safetensors file"),
    ],
)
def test_a_file_that_is_none(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_model(str(file), say=silent)


def test_a_pickle_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.ckpt: only \.safetensors and \.gguf files"):
        read_model(str(file), say=silent)


def test_a_file_that_tells_no_family(tmp_path: Path) -> None:
    import torch

    file = tmp_path / "model.safetensors"
    save_file({"layer.weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="do not tell its family; name it, as FAMILY:PATH"):
        find_family(str(file))
    assert read_model(f"sana:{file}", say=silent).family == "sana"
    tiny("pixart-sigma", tmp_path / "parts")
    assert find_family(str(file), components=str(tmp_path / "parts")) == "pixart-sigma"


WHOLE, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
SHARDS = [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
OLD_SHARDS = [f"model-0000{n}-of-00002.bf16.safetensors" for n in (1, 2)]


@pytest.mark.parametrize(
    ("names", "dtype", "found"),
    [
        ([WHOLE], "float16", ""),
        ([WHOLE, HALF], "float16", "fp16"),
        ([WHOLE, HALF], "bfloat16", ""),
        ([WHOLE, HALF], "float32", ""),
        ([WHOLE, HALF], "auto", ""),
        ([HALF], "float32", "fp16"),
        (SHARDS, "bfloat16", "fp16"),
        (OLD_SHARDS, "bfloat16", "bf16"),
        ([WHOLE, "diffusion_pytorch_model.non_ema.safetensors"], "float16", ""),
        (["diffusion_pytorch_model.bin", "config.json"], "float16", None),
    ],
)
def test_the_variant_that_fits(names: list[str], dtype: str, found: str | None) -> None:
    assert variant(names, dtype) == found


def test_which_of_the_files_is_the_lora() -> None:
    assert pick_lora(["a.safetensors", "README.md"], "here") == "a.safetensors"
    usual = "pytorch_lora_weights.safetensors"
    assert pick_lora(["a.safetensors", usual], "here") == usual
    with pytest.raises(UserError, match=r"here: .* several, name one of a\.safet.*, b\.safet"):
        pick_lora(["b.safetensors", "a.safetensors"], "here")
    with pytest.raises(UserError, match=r"here: .*none there"):
        pick_lora(["lora.bin"], "here")


def test_an_index_is_all_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert find_family(str(tmp_path)) == "flux"
