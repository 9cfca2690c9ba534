from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import typer

from tests.sampling import frames_of, make
from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import TINY, tiny
from ttsnap.config import Model, Sampling
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.architectures import (
    ARCHITECTURES,
    Architecture,
    _build,
    _call_flux,
    model_tflops,
    parameters,
    preview_decoder,
    reward_tflops,
)
from ttsnap.diffusion.cli import costs
from ttsnap.diffusion.flops import tflops
from ttsnap.errors import UserError


@pytest.mark.parametrize(
    ("name", "denoiser", "vae"),
    [("sd15", 859.52, 83.65), ("sdxl", 2567.46, 83.65), ("flux", 11901.41, 83.82)],
)
def test_published_numbers_of_parameters(name: str, denoiser: float, vae: float) -> None:
    """In millions."""
    counted = [number / 1e6 for number in parameters(ARCHITECTURES[name])]
    assert counted == pytest.approx([denoiser, vae], abs=0.005)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("edm", 0.296),
        ("ltx", 1.92),
        ("wan-1.3b", 1.42),
        ("wan-2.2", 2 * 14.288),
        ("wan-2.2-5b", 5.0),
        ("sd35-medium", 2.47),
        ("sd35-large", 8.1),
        ("pixart-sigma", 0.6),
        ("sana", 1.6),
        ("sana-sprint", 1.6),
        ("z-image", 6.155),
        ("flux2", 32),
        ("flux2-klein-4b", 3.88),
        ("qwen-image", 20.4),
        ("chroma", 8.9),
    ],
)
def test_published_sizes(name: str, billions: float) -> None:
    """As cards and papers say, or the weights add up; SD 3.5 counts its table of positions."""
    architecture = ARCHITECTURES[name]
    settings = architecture.denoiser
    positions = settings.get("pos_embed_max_size", 0) ** 2 * settings.get(
        "caption_projection_dim", 0
    )
    counted = (parameters(architecture)[0] + positions) / 1e9
    assert counted == pytest.approx(billions, rel=0.02)


def test_flux_at_512_pixels() -> None:
    """The published simulation takes 9.9 T multiply-adds for an evaluation and 1.2 for a decode.

    That is all but the products of attention, 57 blocks x 2 x 1536 x 1536 x 3072 multiply-adds,
    and in the decoder those over 64 x 64 positions.
    """
    counted = model_tflops(ARCHITECTURES["flux"], 512, 512, guidance_scale=3.5)
    attention = 57 * 2 * 1536**2 * 3072 / 1e12
    assert counted["denoise"] / 2 - attention == pytest.approx(9.9, abs=0.05)
    assert counted["decode"] / 2 - 2 * 4096**2 * 512 / 1e12 == pytest.approx(1.24, abs=0.005)
    assert counted["preview"] < 0.06 * counted["decode"]


def test_guidance_costs_a_second_pass_of_a_unet_only() -> None:
    for name, passes in (("sdxl", 2), ("flux", 1)):
        free, guided = (model_tflops(ARCHITECTURES[name], 256, 256, scale) for scale in (1, 5))
        assert guided["denoise"] == pytest.approx(passes * free["denoise"])
        assert guided["decode"] == free["decode"]


def test_larger_pictures_cost_more_than_in_proportion() -> None:
    small, large = (model_tflops(ARCHITECTURES["sdxl"], size, size, 1) for size in (512, 1024))
    assert 4 * small["denoise"] < large["denoise"] < 5 * small["denoise"]


@pytest.mark.parametrize(("scale", "time_cond_proj_dim"), [(1.0, None), (5.0, None), (5.0, 8)])
@pytest.mark.parametrize("tiny_autoencoder", [True, False])
def test_configs_alone_cost_what_the_modules_cost(
    tmp_path: Path, scale: float, time_cond_proj_dim: int | None, tiny_autoencoder: bool
) -> None:
    pipe = tiny_stable_diffusion(
        tmp_path, tiny_autoencoder=tiny_autoencoder, time_cond_proj_dim=time_cond_proj_dim
    )
    sampling = Sampling(steps=2, guidance_scale=scale, height=32, width=64)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    counted = model_tflops(Architecture.of(Model(path=str(tmp_path))), 32, 64, scale)
    preview = counted.pop("preview")
    assert counted == pytest.approx(from_pipeline(pipe, sampling).costs())
    assert (preview == counted["decode"]) is tiny_autoencoder


@pytest.mark.parametrize("family", TINY)
def test_configs_alone_cost_what_any_family_costs(tmp_path: Path, family: str) -> None:
    pipe = tiny(family, tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    architecture = Architecture.of(Model(family=family, path=str(tmp_path)))
    for scale in (1.0, 5.0):
        counted = model_tflops(architecture, 64, 32, scale, frames_of(pipe))
        expected = make(pipe, scale, size=64).costs()
        assert {name: counted[name] for name in expected} == pytest.approx(expected)


def test_a_transformer_on_the_meta_device_costs_what_it_costs_on_the_cpu() -> None:
    tiny = {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 8,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 6, 6],
    }

    def counted(device: str) -> float:
        with torch.device(device):
            module, latents = _build(tiny), torch.zeros(1, 4, 8, 12)
            return tflops(lambda: _call_flux(module, latents, 7))

    assert counted("cpu") == counted("meta") > 0


def test_attention_is_counted_on_the_meta_device() -> None:
    query, key = torch.empty(2, 4, 16, 8, device="meta"), torch.empty(2, 4, 10, 8, device="meta")
    counted = tflops(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key))
    assert counted == pytest.approx(2 * 2 * (2 * 4) * (16 * 10 * 8) / 1e12)


def test_a_preview_has_the_size_of_the_picture() -> None:
    pipe = tiny_stable_diffusion()
    latents = torch.zeros(2, 4, 8, 8)
    preview = preview_decoder(pipe.vae)
    with torch.inference_mode():
        assert preview.decode(latents).sample.shape == pipe.vae.decode(latents).sample.shape


def test_rewards() -> None:
    """ViT-H/14 and ViT-L/16 at 224 pixels take 167 and 62 G multiply-adds."""
    assert reward_tflops("PickScore") == reward_tflops("HPSv2") == pytest.approx(0.334, abs=0.002)
    blip = reward_tflops("ImageReward")
    assert 2 * 0.0615 < blip < 2 * 0.0615 + 0.02


def run(*arguments: str) -> None:
    app = typer.Typer()
    app.command()(costs)
    app(list(arguments), standalone_mode=False)


def test_costs_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    run("sd15", "--guidance", "1", "--height", "256", "--width", "256", "--steps", "10")
    printed = capsys.readouterr().out
    counted = model_tflops(ARCHITECTURES["sd15"], 256, 256, 1)
    full = 10 * counted["denoise"] + counted["decode"] + reward_tflops("ImageReward")
    for value in (*counted.values(), full):
        assert f"{value:.4g}" in printed


def test_the_page_shows_what_is_counted() -> None:
    page = (Path(__file__).parents[2] / "docs/costs.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    shown = {(row[0], row[2]): row[3:] for row in rows if len(row) == 6 and " x " in row[2]}
    assert set(shown) == {
        (name, f"{width} x {height}" + f" x {frames}" * (frames > 1))
        for name, architecture in ARCHITECTURES.items()
        for height, width, frames in architecture.sizes
    }
    for name in ("sd15", "sana"):
        counted = model_tflops(ARCHITECTURES[name], 512, 512, 5).values()
        assert shown[name, "512 x 512"] == [f"{value:.4g}" for value in counted]
    scores = {row[0]: row[1] for row in rows if len(row) == 2}
    assert scores["ImageReward"] == f"{reward_tflops('ImageReward'):.3g}"


def test_costs_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    printed = capsys.readouterr().out
    assert f"{model_tflops(Architecture.of(Model()), 32, 32, 1.5)['denoise']:.4g}" in printed
    assert "score, clip" in printed


def test_neither_a_name_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sd16: neither a configuration file nor sd15, sdxl, flux"):
        run("sd16")
    with pytest.raises(UserError, match=r"model\.path: no configs in"):
        Architecture.of(Model(path=str(tmp_path), family="sdxl"))


def test_a_file_has_the_architecture_of_its_components(tmp_path: Path) -> None:
    tiny("sdxl", tmp_path / "parts")
    file = tmp_path / "model.safetensors"
    shutil.copy(tmp_path / "parts/unet/diffusion_pytorch_model.safetensors", file)
    model = Model(path=str(file), components=str(tmp_path / "parts"))
    assert Architecture.of(model) == Architecture.of(Model(path=str(tmp_path / "parts")))
