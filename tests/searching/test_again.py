"""``ttsnap again``: pictures brought back from what their PNG says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.diffusion.test_autoencoders import another
from tests.diffusion.test_loras import diffusers_format
from tests.sampling import FRAMES
from tests.searches import OPTIONS
from tests.store.test_videos import read_mp4
from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import tiny
from ttsnap import save
from ttsnap.config import Model
from ttsnap.diffusion import from_pipeline
from ttsnap.searching import METHODS
from ttsnap.searching.api import search as search_with
from ttsnap.searching.record import Generator, generator_of, read_picture

Command = Callable[..., int]
PROMPT = "a red circle, or 円 🦊"
NEGATIVE = "dull \n grey"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of some families."""
    folder = tmp_path_factory.mktemp("again")
    pipe = tiny_stable_diffusion(folder / "sd")
    diffusers_format(pipe, folder / "style.safetensors", "unet")
    another(pipe.vae).save_pretrained(folder / "vae")
    settings = {"model": {"path": "sd", "vae": {"path": "vae"}}}
    (folder / "own.yaml").write_text(yaml.safe_dump(settings))
    for family in ("stable-diffusion-3", "edm"):
        tiny(family).save_pretrained(folder / family)
    return folder


@pytest.fixture
def ttsnap(ttsnap: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the folder; gives its exit status."""
    monkeypatch.chdir(folder)
    return ttsnap


@pytest.fixture
def search(ttsnap: Command, tmp_path: Path) -> Callable[..., Path]:
    """Search on a tiny model, a candidate at a time, by brightness; gives the prompt's folder."""

    def command(model: str, method: str, *arguments: object, prompt: str = PROMPT) -> Path:
        options = OPTIONS[method].model_dump(exclude_unset=True)
        given = ["--schedule", options.pop("schedule")] if "schedule" in options else []
        given += [part for item in options.items() for part in ("--option", "{}={}".format(*item))]
        given += ["--no-narf"] if METHODS[method].looks_by_narf else []
        common = ("--reward", "brightness", "--budget", "32nfe", "--out", tmp_path / "out")
        sizes = ("--height", 32, "--width", 32, "--steps", 4, "--batch-size", 1)
        status = ttsnap(
            *("search", prompt, "--model", model, "--method", method, *common, *sizes, *given),
            *arguments,
        )
        assert status == 0
        (found,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
        return found

    return command


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def text(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return dict(image.text)


def with_text(path: Path, source: Path, **changed: Any) -> None:
    """A copy of a picture whose record says something else."""
    info = PngInfo()
    info.add_text("ttsnap", json.dumps(json.loads(text(source)["ttsnap"]) | changed))
    Image.open(source).save(path, pnginfo=info)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_s_picture_comes_back(
    search: Callable[..., Path],
    ttsnap: Command,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    found = search("sd", method, "--negative-prompt", NEGATIVE, "--keep-finals", "--seed", 3)
    pictures = [found / "best.png", *found.glob("rounds/*.png"), *found.glob("finals/*.png")]
    assert len(pictures) > 2
    for picture in pictures[:2] + pictures[-1:]:
        capsys.readouterr()
        assert ttsnap("again", picture) == 0
        assert "identical, all pixels are the same" in capsys.readouterr().out
        drawn = picture.with_name(f"{picture.stem}-again.png")
        np.testing.assert_array_equal(pixels(drawn), pixels(picture))
        assert text(drawn) == text(picture)


@pytest.mark.parametrize(
    ("model", "method", "arguments", "prompt"),
    [
        ("stable-diffusion-3", "beam", (), PROMPT),  # with a scheduler that adds noise
        ("stable-diffusion-3", "ttsp", (), PROMPT),
        ("edm", "noise-zero-order", ("--steps", 7), "heron"),
        ("sd", "best-of-n", ("--scheduler", "DPMSolverMultistepScheduler"), PROMPT),
    ],
)
def test_whatever_the_family_and_the_scheduler(
    search: Callable[..., Path],
    ttsnap: Command,
    capsys: pytest.CaptureFixture[str],
    model: str,
    method: str,
    arguments: tuple[object, ...],
    prompt: str,
) -> None:
    found = search(model, method, *arguments, prompt=prompt)
    assert ttsnap("again", found / "best.png", "--out", found / "new/again.png") == 0
    assert "identical" in capsys.readouterr().out
    np.testing.assert_array_equal(pixels(found / "new/again.png"), pixels(found / "best.png"))


def test_with_a_lora_and_an_autoencoder_of_one_s_own(
    ttsnap: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--height", 32, "--width", 32, "--steps", 3, "--batch-size", 1)
    common = ("--method", "random", "--reward", "brightness", "--budget", "6nfe", *sizes)
    given = ("--config", "own.yaml", "--lora", "style.safetensors:0.1")
    pictures = {}
    for name, arguments in (("plain", ("--model", "sd")), ("own", given)):
        assert ttsnap("search", PROMPT, *common, *arguments, "--out", tmp_path / name) == 0
        (found,) = (tmp_path / name).glob("*/best.png")
        pictures[name] = pixels(found)
    assert text(found)["model"] == "sd + vae vae + style.safetensors:0.1"
    assert np.abs(pictures["own"].astype(int) - pictures["plain"]).max() > 5
    assert ttsnap("again", found) == 0
    assert "identical, all pixels are the same" in capsys.readouterr().out


def test_with_negtome_in_batches(
    folder: Path, ttsnap: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A candidate's reference runs along; where others did too, rounding may differ."""
    negtome = {"alpha": 2.5, "threshold": -1.0, "t_end": 500.0, "min_width": 2, "group": 2}
    settings = {
        "model": {"path": "sd"},
        "sampling": {
            "steps": 5,
            "scheduler": {"name": "DDIMScheduler"},
            "negtome": negtome | {"reference": 1},
        },
        "rewards": {"brightness": {"kind": "brightness"}},
        "search": {"reward": "brightness"},
        "judge": None,
    }
    (folder / "negtome.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    arguments = ("--method", "best-of-n", "--budget", "60nfe", "--out", out, "--keep-finals")
    sizes = ("--height", 32, "--width", 32)
    assert ttsnap("search", PROMPT, "--config", "negtome.yaml", *arguments, *sizes) == 0
    (found,) = (path for path in out.iterdir() if path.is_dir())
    pictures = sorted(found.glob("finals/*.png"))
    assert {read_picture(one)[1].reference for one in pictures} - {None}
    for picture in pictures[:4]:
        again = tmp_path / "again.png"
        assert ttsnap("again", picture, "--out", again) == 0
        apart = np.abs(pixels(again).astype(int) - pixels(picture))
        assert apart.max() <= 1
    others = [pixels(one).astype(int) for one in pictures]
    assert np.abs(others[0] - others[1]).max() > 10


def test_a_video_comes_back(
    folder: Path, ttsnap: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    tiny("wan").save_pretrained(folder / "wan")
    settings = {
        "model": {"path": "wan"},
        "sampling": {"frames": FRAMES, "height": 32, "width": 32, "steps": 3},
        "rewards": {"brightness": {"kind": "brightness"}},
        "search": {"reward": "brightness"},
        "judge": None,
    }
    (folder / "wan.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("--method", "beam", "--budget", "20nfe", "--batch-size", 1)
    out = tmp_path / "out"
    assert ttsnap("search", PROMPT, "--config", "wan.yaml", "--out", out, *arguments) == 0
    (picture,) = out.glob("*/best.png")
    assert text(picture)["size"] == f"32x32x{FRAMES}"
    assert ttsnap("again", picture) == 0
    assert "identical" in capsys.readouterr().out
    one, other = (read_mp4(picture.with_name(f"{name}.mp4")) for name in ("best", "best-again"))
    # A frame that is rounded elsewhere in one pixel is encoded differently in many.
    assert np.abs(one[0].astype(int) - other[0]).mean() < 1


def test_the_text_says_it_to_people_and_to_programs(search: Callable[..., Path]) -> None:
    found = search("sd", "beam", "--negative-prompt", NEGATIVE, "--guidance", 3)
    said = text(found / "best.png")
    assert said["prompt"] == PROMPT
    assert said["negative_prompt"] == NEGATIVE
    assert (said["model"], said["dtype"], said["size"]) == ("sd", "float32", "32x32")
    assert (said["steps"], said["guidance_scale"], said["method"]) == ("4", "3", "beam")
    assert said["scheduler"] == "DDIMScheduler,eta=1.0"
    whole = json.loads(said["ttsnap"])
    _, record = read_picture(found / "best.png")
    assert whole == record.model_dump(mode="json")
    assert whole["generator"]["model"]["family"] == "stable-diffusion"
    assert whole["generator"]["machine"]["device"] == "cpu"
    assert whole["noises"] == json.loads(said["noises"])
    assert str(whole["rewards"]["brightness"]) == said["score"]


def test_what_ships_is_found_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sampler = from_pipeline(tiny_stable_diffusion(), {})
    model = Model()
    assert Path(model.path).is_absolute()
    written = generator_of(sampler, model).model_dump_json()
    assert json.loads(written)["model"]["path"] == "ttsnap/shapes/weights/generator"
    assert Generator.model_validate_json(written).model == model


def test_other_weights_are_told(
    search: Callable[..., Path], ttsnap: Command, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(folder / "sd", tmp_path / "mine")
    picture = search(str(tmp_path / "mine"), "random") / "best.png"
    shutil.rmtree(tmp_path / "mine")
    tiny_stable_diffusion(tmp_path / "mine", seed=5)
    assert ttsnap("again", picture) == 0
    said = capsys.readouterr().out
    assert "a pixel differs by up to " in said
    assert "of 255" in said
    assert "or other weights" in said
    with_text(
        tmp_path / "older.png",
        picture,
        generator=json.loads(text(picture)["ttsnap"])["generator"]
        | {"machine": {"device": "cuda", "gpu": "NVIDIA H100", "torch": "2.0"}},
    )
    assert ttsnap("again", tmp_path / "older.png") == 0
    said = capsys.readouterr().out
    assert "device was cuda, is cpu, gpu was NVIDIA H100, is none, torch was 2.0, is " in said


def test_what_cannot_be_drawn_is_one_line(
    search: Callable[..., Path], ttsnap: Command, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(folder / "sd", tmp_path / "mine")
    picture = search(str(tmp_path / "mine"), "random") / "best.png"
    Image.open(picture).resize((16, 16)).save(tmp_path / "plain.png")
    Image.open(picture).save(tmp_path / "photo.jpg")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:-200])
    with_text(tmp_path / "newer.png", picture, more=1)
    info = PngInfo()
    info.add_text("ttsnap", text(picture)["ttsnap"])
    Image.open(picture).resize((16, 16)).save(tmp_path / "small.png", pnginfo=info)
    shutil.rmtree(tmp_path / "mine")
    for name, arguments, words in (
        ("none.png", (), "no such file"),
        ("plain.png", (), "says nothing of how ttsnap drew it"),
        ("photo.jpg", (), "not a PNG"),
        ("cut.png", (), "not a PNG, or a damaged one"),
        ("newer.png", (), "its record cannot be read by ttsnap 0.1.0: more: "),
        ("small.png", (), "is no longer as it was drawn, 32 x 32 pixels"),
        (picture, (), "its model "),
        (picture, ("--out", tmp_path / "again.jpg"), "expected the name of a .png file"),
    ):
        capsys.readouterr()
        assert ttsnap("again", tmp_path / name, *arguments) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_a_notebook_s_pipeline(
    ttsnap: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only its path is known; a pipeline without one cannot be had again."""
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(folder / "sd", safety_checker=None)
    for name, pipe in (("loaded", loaded), ("made", tiny_stable_diffusion())):
        settings: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 3}
        found = search_with(
            *(pipe, PROMPT),
            reward=lambda images, prompts: images.mean((1, 2, 3)),
            method="random",
            budget="12nfe",
            batch_size=1,
            progress=False,
            **settings,
        )
        save(found, tmp_path / name)
    assert ttsnap("again", tmp_path / "loaded/best.png") == 0
    said = capsys.readouterr().out
    assert "what was changed after it was loaded, such as LoRAs, is not known" in said
    assert "identical" in said
    assert ttsnap("again", tmp_path / "made/best.png") == 1
    assert "put together in memory" in capsys.readouterr().err
