"""An autoencoder of one's own: from folder or file, in any precision, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import original
from tests.diffusion.test_checkpoints import loaded, pixels
from tests.tiny_families import each, tiny, tiny_autoencoder
from ttsnap.config import Model, load_config
from ttsnap.diffusion.architectures import Architecture, model_tflops
from ttsnap.diffusion.sources import described, model_files
from ttsnap.errors import UserError
from ttsnap.run.fetch import sources
from ttsnap.run.trained import difference, made_for


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    tiny("sdxl", folder)
    return folder


def another(vae: Any) -> Any:
    """One of the same shape with other weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return type(vae).from_config(vae.config).eval()


@pytest.mark.parametrize("family", each("flux", "qwen-image", "wan"))
def test_of_every_family_from_a_folder_or_a_file(family: str, tmp_path: Path) -> None:
    pipe = tiny(family, tmp_path / "model")
    if not hasattr(pipe, "vae"):
        with pytest.raises(UserError, match=rf"model\.vae: {type(pipe).__name__} has no autoenc"):
            loaded(path=str(tmp_path / "model"), vae={"path": "any.safetensors"})
        return
    own = another(pipe.vae).state_dict()
    another(pipe.vae).save_pretrained(tmp_path / "vae")
    for path in (tmp_path / "vae", tmp_path / "vae/diffusion_pytorch_model.safetensors"):
        found = loaded(path=str(tmp_path / "model"), vae={"path": str(path)})
        assert found.vae.state_dict().keys() == own.keys()
        assert all(torch.equal(one, own[key]) for key, one in found.vae.state_dict().items())
        assert not found.vae.training


def test_its_pixels_are_those_of_diffusers(sdxl: Path, tmp_path: Path) -> None:
    """Also where a file has the keys of the original code, and where precision is half."""
    pipe = tiny("sdxl")
    plain, vae = pixels(pipe), another(pipe.vae)
    own = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl, vae=vae, add_watermarker=False)
    file = original.write(tmp_path / "vae.safetensors", [original.autoencoder(vae)])
    found = loaded(path=str(sdxl), vae={"path": str(file)})
    assert np.array_equal(pixels(found), pixels(own))
    assert np.abs(pixels(found) - plain).max() > 0.05
    vae.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    half = loaded(path=str(sdxl), vae={"path": str(tmp_path / "half")}, dtype="float16")
    assert half.vae.dtype == torch.float16
    assert torch.equal(half.vae.decoder.conv_in.weight, vae.decoder.conv_in.weight)


def test_it_is_recorded_and_counted(sdxl: Path, tmp_path: Path) -> None:
    smaller = diffusers.AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    smaller.save_pretrained(tmp_path)
    model = Model(path=str(sdxl), vae={"path": str(tmp_path)})
    assert described(model) == f"{sdxl} + vae {tmp_path}"
    assert "vae/diffusion_pytorch_model.safetensors" in model_files(model)
    assert Model.model_validate_json(model.model_dump_json()) == model
    plain, own = (
        model_tflops(Architecture.of(one), 32, 32, 1.0) for one in (Model(path=str(sdxl)), model)
    )
    assert own["denoise"] == plain["denoise"]
    assert own["decode"] < plain["decode"]
    file = model.model_copy(update={"vae": model.vae.model_copy(update={"path": "a.safetensors"})})
    assert Architecture.of(file) == Architecture.of(Model(path=str(sdxl)))


def test_it_is_fetched_and_belongs_to_what_is_made(sdxl: Path) -> None:
    of_hub = {"path": "org/vae", "revision": "0" * 40}
    config = load_config({"model": {"path": str(sdxl), "vae": of_hub}})
    (source,) = (one for one in sources(config) if one.place == "model.vae")
    assert (source.repository, source.files) == ("org/vae", ("config.json", "*.safetensors"))
    plain, own = (
        made_for(model, config.sampling, {})
        for model in (config.model.model_copy(update={"vae": None}), config.model)
    )
    assert difference(plain, own) == 'its model.vae.path is null, not "org/vae"'


def cut(folder: Path) -> Path:
    file = folder / "vae.safetensors"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, file)
    return file


def emptied(folder: Path) -> Path:
    (folder / "config.json").write_text('{"_class_name": "FluxPipeline"}')
    return folder


def pickled(folder: Path) -> Path:
    file = folder / "vae.pt"
    file.write_bytes(b"")
    return file


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (lambda folder: folder / "none.safetensors", "none.safetensors: no such file"),
        (lambda folder: folder / "none", "is neither a folder nor a hub id"),
        (pickled, r"only \.safetensors and \.gguf files are read"),
        (cut, r"lacks|cannot load"),
        (emptied, "is no autoencoder of diffusers"),
    ],
)
def test_what_is_no_autoencoder_is_one_line(
    sdxl: Path, path: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    tiny_autoencoder().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^model\.vae\.path: .*({message})") as caught:
        loaded(path=str(sdxl), vae={"path": str(path(tmp_path))})
    assert "\n" not in str(caught.value)


def test_an_autoencoder_of_other_latents_is_one_line(sdxl: Path, tmp_path: Path) -> None:
    tiny_autoencoder(latent_channels=16).save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="decodes 16 channels, not the 4 of the model"):
        loaded(path=str(sdxl), vae={"path": str(tmp_path / "vae")})
    tiny("edm", tmp_path / "edm")
    with pytest.raises(UserError, match=r"model\.vae: EDMPipeline has no autoencoder"):
        loaded(path=str(tmp_path / "edm"), vae={"path": str(tmp_path / "vae")})
