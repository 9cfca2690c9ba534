"""LoRAs of the generator: that they do what diffusers makes of them, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from tests import original
from tests.diffusion.test_checkpoints import loaded, only_texts, pixels, sdxl_parts, tiny_sdxl
from tests.tiny_families import each, tiny, tiny_wan_22
from ttsnap.config import Model
from ttsnap.diffusion.sources import described, model_files, read_lora, read_model
from ttsnap.errors import UserError

RANK = 2
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")


def factors(shape: torch.Size, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors, down and up, of an update of a weight of this shape that shows."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(RANK, shape[1], generator=generator)
    return down, torch.randn(shape[0], RANK, generator=generator)


def adapted(tensors: original.Tensors) -> dict[str, torch.Tensor]:
    """Name without ``.weight`` -> weight, of the layers of attention."""
    names = {key.removesuffix(".weight"): value for key, value in tensors.items()}
    return {name: value for name, value in names.items() if name.endswith(ATTENTION)}


def kohya(pipe: Any, file: Path) -> Path:
    """As sd-scripts writes it for an SDXL: the names of the original U-Net, and an alpha each."""
    encoders = {
        f"lora_te{number}_text_model_": model.state_dict()
        for number, model in ((1, pipe.text_encoder), (2, pipe.text_encoder_2.text_model))
    }
    unet = {
        key.removeprefix("model.diffusion_model."): value
        for key, value in original.unet(pipe.unet).items()
    }
    tensors = {}
    for prefix, given in ({"lora_unet_": unet} | encoders).items():
        for seed, (name, weight) in enumerate(adapted(given).items()):
            down, up = factors(weight.shape, seed)
            place = prefix + name.replace(".", "_")
            tensors[f"{place}.lora_down.weight"] = down
            tensors[f"{place}.lora_up.weight"] = up
            tensors[f"{place}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file)
    return file


def diffusers_format(pipe: Any, file: Path, part: str) -> Path:
    """As ``save_lora_weights`` of a pipeline writes it."""
    tensors = {}
    for seed, (name, weight) in enumerate(adapted(getattr(pipe, part).state_dict()).items()):
        down, up = factors(weight.shape, seed)
        tensors |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    save_file(tensors, file)
    return file


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    tiny("sdxl", folder)
    return folder


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_kohya_gives_the_pixels_of_diffusers(sdxl: Path, scale: float, tmp_path: Path) -> None:
    own = tiny("sdxl")
    plain = pixels(own)
    file = kohya(own, tmp_path / "style.safetensors")
    own.load_lora_weights(str(file), adapter_name="style")
    for part in (own.unet, own.text_encoder, own.text_encoder_2):
        assert any(isinstance(module, BaseTunerLayer) for module in part.modules())
    own.set_adapters(["style"], [scale])
    found = loaded(path=str(sdxl), loras=[{"path": str(file), "scale": scale}])
    for part in (found.unet, found.text_encoder, found.text_encoder_2):
        assert not any(isinstance(module, BaseTunerLayer) for module in part.modules())
    assert np.allclose(pixels(found), pixels(own), rtol=0, atol=1e-4)
    assert np.abs(pixels(found) - plain).max() > 0.05


def test_several_add_up_and_none_by_a_scale_of_zero(sdxl: Path, tmp_path: Path) -> None:
    own = tiny("sdxl")
    files = [
        kohya(own, tmp_path / "a.safetensors"),
        diffusers_format(own, tmp_path / "b.safetensors", "unet"),
    ]
    zero = loaded(path=str(sdxl), loras=[{"path": str(file), "scale": 0.0} for file in files])
    assert np.array_equal(pixels(zero), pixels(loaded(path=str(sdxl))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are two
        for name, file in zip("ab", files, strict=True):
            own.load_lora_weights(str(file), adapter_name=name)
    own.set_adapters(["a", "b"], [0.5, 0.25])
    loras = [{"path": str(files[0]), "scale": 0.5}, {"path": str(files[1]), "scale": 0.25}]
    assert np.allclose(pixels(loaded(path=str(sdxl), loras=loras)), pixels(own), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["file", "fp16"])
def test_sdxl_as_people_have_it(kind: str, tmp_path: Path) -> None:
    """One file, or a folder of fp16 weights, with a Kohya LoRA: pixels as by diffusers."""
    pipe = tiny_sdxl(tmp_path / "parts")
    lora = kohya(pipe, tmp_path / "style.safetensors")
    only_texts(tmp_path / "parts")
    if kind == "file":
        file = original.write(tmp_path / "model.safetensors", sdxl_parts(pipe))
        given = {"path": str(file), "components": str(tmp_path / "parts")}
        own = diffusers.StableDiffusionXLPipeline.from_single_file(
            str(file), config=given["components"], local_files_only=True, add_watermarker=False
        )
    else:
        given = {"path": str(tmp_path / "half")}
        pipe.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
        own = diffusers.StableDiffusionXLPipeline.from_pretrained(
            tmp_path / "half", variant="fp16", dtype=torch.float32, add_watermarker=False
        )
    plain = pixels(own)
    own.load_lora_weights(str(lora))
    own.fuse_lora(lora_scale=0.8)
    found = loaded(**given, loras=[{"path": str(lora), "scale": 0.8}])
    assert np.allclose(pixels(found), pixels(own), rtol=0, atol=1e-5)
    assert np.abs(pixels(found) - plain).max() > 0.05


@pytest.mark.parametrize("family", each("stable-diffusion", "qwen-image", "wan"))
def test_every_layer_of_every_family_is_updated(family: str, tmp_path: Path) -> None:
    own = tiny(family, tmp_path / "model")
    if not hasattr(own, "load_lora_weights"):
        with pytest.raises(UserError, match=rf"model\.loras\.0: {type(own).__name__} takes no LoR"):
            loaded(path=str(tmp_path / "model"), loras=[{"path": "any.safetensors"}])
        return
    part = "unet" if hasattr(own, "unet") else "transformer"
    file = diffusers_format(own, tmp_path / "lora.safetensors", part)
    found = loaded(path=str(tmp_path / "model"), loras=[{"path": str(file), "scale": 0.5}])
    weights = getattr(found, part).state_dict()
    for seed, (name, weight) in enumerate(adapted(getattr(own, part).state_dict()).items()):
        down, up = factors(weight.shape, seed)
        expected = weight + 0.5 * up @ down
        assert torch.allclose(weights[f"{name}.weight"], expected, rtol=0, atol=1e-4)


DOUBLE = ("double_blocks_0_img_attn_proj", "transformer_blocks.0.attn.to_out.0")


@pytest.mark.parametrize(
    ("family", "key", "layer"),
    [
        *((family, *DOUBLE) for family in ("flux", "chroma", "flux2", "flux2-klein")),
        ("z-image", "layers_0_attention_to_q", "layers.0.attention.to_q"),
        ("qwen-image", "transformer_blocks_0_attn_to_q", "transformer_blocks.0.attn.to_q"),
    ],
)
def test_kohya_of_transformers(family: str, key: str, layer: str, tmp_path: Path) -> None:
    """By the names of the original code; of rank 2 with an alpha of 1 it counts half."""
    weight = tiny(family, tmp_path / "model").transformer.state_dict()[f"{layer}.weight"]
    down, up = factors(weight.shape, 0)
    place = f"lora_unet_{key}"
    tensors = {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up}
    save_file(tensors | {f"{place}.alpha": torch.tensor(1.0)}, tmp_path / "style.safetensors")
    lora = {"path": str(tmp_path / "style.safetensors")}
    found = loaded(path=str(tmp_path / "model"), loras=[lora]).transformer.state_dict()
    assert torch.allclose(found[f"{layer}.weight"], weight + 0.5 * up @ down, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["flux", "stable-diffusion-3"])
def test_diffusers_format_of_transformers(family: str, tmp_path: Path) -> None:
    own = tiny(family, tmp_path / "model")
    (tmp_path / "lora").mkdir()
    diffusers_format(own, tmp_path / "lora/pytorch_lora_weights.safetensors", "transformer")
    own.load_lora_weights(str(tmp_path / "lora"))
    lora = {"path": str(tmp_path / "lora")}
    found = loaded(path=str(tmp_path / "model"), loras=[lora])
    assert np.allclose(pixels(found), pixels(own), rtol=0, atol=1e-4)
    half = loaded(path=str(tmp_path / "model"), loras=[lora], dtype="bfloat16")
    assert half.transformer.dtype == torch.bfloat16


def test_each_of_two_transformers_can_have_its_own(tmp_path: Path) -> None:
    own = tiny_wan_22(folder=tmp_path / "model")
    plain = [part.state_dict() for part in (own.transformer, own.transformer_2)]
    files = [
        diffusers_format(own, tmp_path / f"{part}.safetensors", part)
        for part in ("transformer", "transformer_2")
    ]
    tensors = {name.replace("_2.", ".", 1): value for name, value in load_file(files[1]).items()}
    save_file({name: 2 * value for name, value in tensors.items()}, files[1])
    loras = [{"path": str(file), "second": file == files[1]} for file in files]
    found = loaded(path=str(tmp_path / "model"), loras=loras)
    for part, before, factor in zip(
        (found.transformer, found.transformer_2), plain, (1, 4), strict=True
    ):
        name = next(iter(adapted(before)))
        down, up = factors(before[f"{name}.weight"].shape, 0)
        update = part.state_dict()[f"{name}.weight"] - before[f"{name}.weight"]
        torch.testing.assert_close(update, factor * up @ down, rtol=1e-4, atol=1e-4)
    tiny("wan", tmp_path / "single")
    with pytest.raises(UserError, match=r"loras\.0\.second: WanPipeline has no second transf"):
        loaded(path=str(tmp_path / "single"), loras=loras[1:])


def wrong_shape(pipe: Any, file: Path) -> None:
    down = torch.zeros(RANK, 7)
    name = next(iter(adapted(pipe.unet.state_dict())))
    up = torch.zeros(7, RANK)
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, file)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda pipe, file: None, r"model\.loras\.0\.path: .*no such file"),
        (lambda pipe, file: file.write_bytes(b"nothing"), "is no LoRA for a StableDiffusionXLPip"),
        (lambda pipe, file: save_file(pipe.unet.state_dict(), file), "is no LoRA for a Stable"),
        (wrong_shape, "is no LoRA for a StableDiffusionXLPipeline: .*size mismatch"),
        (
            lambda pipe, file: diffusers_format(tiny("flux"), file, "transformer"),
            "has no layer of a StableDiffusionXLPipeline|is no LoRA for a Stable",
        ),
    ],
)
def test_what_is_no_lora_of_the_model_is_one_line(
    sdxl: Path, write: Callable[[Any, Path], object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "lora.safetensors"
    write(tiny("sdxl"), file)
    with pytest.raises(UserError, match=message) as caught:
        loaded(path=str(sdxl), loras=[{"path": str(file)}])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layers_that_find_no_place_are_told(sdxl: Path, tmp_path: Path, caplog: Any) -> None:
    """As with a LoRA of another SDXL, or of its parts that the pipeline does not have."""
    file = diffusers_format(tiny("sdxl"), tmp_path / "lora.safetensors", "unet")
    loaded(path=str(sdxl), loras=[{"path": str(file)}])
    assert caplog.text == ""
    tensors = load_file(file)
    for factor, shape in (("A", (2, 8)), ("B", (8, 2))):
        tensors[f"text_encoder_3.layers.0.q_proj.lora_{factor}.weight"] = torch.ones(shape)
    save_file(tensors, file)
    loaded(path=str(sdxl), loras=[{"path": str(file)}])
    assert "lora.safetensors: 1 of 33 layers are not in the model" in caplog.text


def test_families_and_files_that_cannot_be(sdxl: Path, tmp_path: Path) -> None:
    tiny("edm", tmp_path / "edm")
    with pytest.raises(UserError, match=r"model\.loras\.0: EDMPipeline takes no LoRAs"):
        loaded(path=str(tmp_path / "edm"), loras=[{"path": "any.safetensors"}])
    (tmp_path / "pickle.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pickle\.bin: only \.safetensors files are read"):
        loaded(path=str(sdxl), loras=[{"path": str(tmp_path / "pickle.bin")}])
    with pytest.raises(UserError, match=r"expected one \.safetensors file; there are none there"):
        loaded(path=str(sdxl), loras=[{"path": str(tmp_path)}])


def test_a_lora_on_the_command_line_is_recorded(sdxl: Path, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"")
    assert read_lora(str(file), pytest.fail) == {"path": str(file), "scale": 1.0}
    assert read_lora(f"{file}:0.8", pytest.fail) == {"path": str(file), "scale": 0.8}
    with pytest.raises(UserError, match=r"--lora lost\.safetensors: no such file"):
        read_lora("lost.safetensors", pytest.fail)
    model = read_model(str(sdxl), loras=[f"{file}:-1", str(tmp_path)], say=pytest.fail)
    assert described(model) == f"{sdxl} + {file}:-1 + {tmp_path}:1"
    assert {"loras/0/style.safetensors": file}.items() <= model_files(model).items()
    assert Model.model_validate_json(model.model_dump_json()) == model
