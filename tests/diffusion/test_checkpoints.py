"""Single files: what they hold, and that they give the pixels of the pipeline they are of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers

from tests import original
from tests.tiny_families import each, tiny
from ttsnap.config import Model, Runtime
from ttsnap.diffusion import sampler_class
from ttsnap.diffusion.loading import load_pipeline
from ttsnap.diffusion.sources import find_family, model_files, read_model, with_family
from ttsnap.errors import UserError


def tiny_sdxl(folder: Path) -> Any:
    """With a second text encoder of ten layers, by which diffusers knows an SDXL."""
    pipe = tiny("sdxl")
    config = pipe.text_encoder_2.config
    config.num_hidden_layers = 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder = transformers.CLIPTextModelWithProjection(config).eval()
    pipe.register_modules(text_encoder_2=encoder)
    pipe.save_pretrained(folder)
    return pipe


def sdxl_parts(pipe: Any) -> list[original.Tensors]:
    return [
        original.unet(pipe.unet),
        original.autoencoder(pipe.vae),
        original.clip(pipe.text_encoder, "conditioner.embedders.0."),
        original.open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model."),
    ]


def only_texts(folder: Path, *parts: str) -> None:
    """Leave the weights of nothing but ``parts`` in a folder."""
    for weights in folder.rglob("*.safetensors"):
        if weights.parent.name not in parts:
            weights.unlink()


def pixels(pipe: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    given = {"height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 3.0}
    generator = torch.Generator().manual_seed(1)
    return pipe("a red ring", output_type="np", generator=generator, **given).images


def loaded(**given: Any) -> Any:
    model = with_family(Model(**given))
    return load_pipeline(sampler_class(model.family).pipeline(), model, Runtime())


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """A tiny SDXL, its file, and the folder of its configs and tokenizers."""
    folder = tmp_path_factory.mktemp("sdxl")
    pipe = tiny_sdxl(folder / "parts")
    only_texts(folder / "parts")
    file = original.write(folder / "model.safetensors", sdxl_parts(pipe))
    return pipe, file, folder / "parts"


def test_sdxl_in_one_file(sdxl: tuple[Any, Path, Path]) -> None:
    pipe, file, parts = sdxl
    assert find_family(str(file)) == "sdxl"
    found = loaded(path=str(file), components=str(parts))
    own = diffusers.StableDiffusionXLPipeline.from_single_file(
        str(file), config=str(parts), local_files_only=True, add_watermarker=False
    )
    assert np.array_equal(pixels(found), pixels(own))
    assert np.array_equal(pixels(found), pixels(pipe))
    assert list(model_files(Model(path=str(file), components=str(parts)))) == [file.name]


def test_stable_diffusion_in_one_file(tmp_path: Path) -> None:
    pipe = tiny("stable-diffusion", tmp_path / "parts")
    only_texts(tmp_path / "parts")
    parts = [
        original.unet(pipe.unet),
        original.autoencoder(pipe.vae),
        original.clip(pipe.text_encoder, "cond_stage_model."),
    ]
    file = original.write(tmp_path / "model.safetensors", parts)
    assert find_family(str(file)) == "stable-diffusion"
    found = loaded(path=str(file), components=str(tmp_path / "parts"), dtype="float16")
    assert found.unet.dtype == found.vae.dtype == found.text_encoder.dtype == torch.float16
    found = loaded(path=str(file), components=str(tmp_path / "parts"))
    assert np.array_equal(pixels(found), pixels(pipe))


@pytest.mark.parametrize("held", [1, 2])
def test_what_a_file_lacks_is_taken_from_the_components(
    sdxl: tuple[Any, Path, Path], held: int, tmp_path: Path
) -> None:
    """The U-Net alone, or with the autoencoder."""
    pipe = sdxl[0]
    pipe.save_pretrained(tmp_path / "parts")
    only_texts(tmp_path / "parts", *["vae", "text_encoder", "text_encoder_2"][held - 1 :])
    file = original.write(tmp_path / "model.safetensors", sdxl_parts(pipe)[:held])
    found = loaded(path=str(file), components=str(tmp_path / "parts"))
    # Weights that lie elsewhere in memory are summed in another order.
    assert np.allclose(pixels(found), pixels(pipe), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "family", each("flux", "pixart-sigma", "stable-diffusion-3", "edm", "z-image")
)
def test_a_denoiser_of_diffusers_over_its_components(family: str, tmp_path: Path) -> None:
    """Where the keys tell nothing, the components say the family."""
    pipe = tiny(family, tmp_path / "parts")
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    file = tmp_path / "finetuned.safetensors"
    shutil.move(tmp_path / "parts" / part / "diffusion_pytorch_model.safetensors", file)
    given = {"path": str(file), "components": str(tmp_path / "parts")}
    assert find_family(**given) == family
    found = loaded(**given)
    own = getattr(pipe, part).state_dict()
    assert all(torch.equal(own[key], one) for key, one in getattr(found, part).state_dict().items())
    if family in ("flux", "stable-diffusion-3"):
        assert np.allclose(pixels(found), pixels(pipe), rtol=0, atol=1e-5)
    assert getattr(loaded(**given, dtype="bfloat16"), part).dtype == torch.bfloat16


def test_a_file_without_its_components_is_one_line(sdxl: tuple[Any, Path, Path]) -> None:
    _, file, _ = sdxl
    usual = "stabilityai/stable-diffusion-xl-base-1.0"
    with pytest.raises(UserError, match=f"neither configs nor tokenizers; .* such as {usual}@COM"):
        loaded(path=str(file))


def test_components_of_another_model_are_one_line(sdxl: tuple[Any, Path, Path], tmp_path) -> None:
    _, file, _ = sdxl
    tiny("flux", tmp_path)
    with pytest.raises(UserError, match="is a FluxPipeline, not a StableDiffusionXLPipeline"):
        loaded(path=str(file), components=str(tmp_path))
    tiny("sdxl", tmp_path / "other")
    index = tmp_path / "other/unet/config.json"
    index.write_text(index.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(UserError, match=r"cannot load|lacks") as caught:
        loaded(path=str(file), components=str(tmp_path / "other"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["unet", "vae", "text_encoder_2"])
def test_a_file_with_missing_weights_is_one_line(
    sdxl: tuple[Any, Path, Path], lost: str, tmp_path: Path
) -> None:
    pipe, _, parts = sdxl
    place = {
        "unet": "model.diffusion_model.out.2.weight",
        "vae": "first_stage_model.decoder.conv_in.weight",
        "text_encoder_2": "conditioner.embedders.1.model.transformer.resblocks.4.mlp.c_fc.bias",
    }
    tensors = {key: value for part in sdxl_parts(pipe) for key, value in part.items()}
    del tensors[place[lost]]
    file = original.write(tmp_path / "model.safetensors", [tensors])
    with pytest.raises(UserError, match=r"model\.path: .*(lacks|cannot load)") as caught:
        loaded(path=str(file), components=str(parts))
    assert "\n" not in str(caught.value)


def test_a_file_on_the_command_line(sdxl: tuple[Any, Path, Path]) -> None:
    _, file, parts = sdxl
    found = read_model(str(file), components=str(parts), say=pytest.fail)
    assert (found.family, found.components) == ("sdxl", str(parts))
