from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import diffusers
import pytest
import torch
from sentencepiece import SentencePieceTrainer

from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import each, tiny
from ttsnap.config import Model, Runtime, Sampling
from ttsnap.diffusion import load_sampler, sampler_class
from ttsnap.diffusion.devices import dtype_on
from ttsnap.diffusion.loading import load_pipeline, settled
from ttsnap.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_stable_diffusion(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def load(folder: Path | str, device: str = "cpu", **settings):
    return load_sampler(
        Model(path=str(folder), **settings), Sampling(steps=2), Runtime(device=device)
    )


def test_a_folder_gives_the_model_that_was_saved(saved, capfd):
    capfd.readouterr()
    sampler = load(saved, device="auto" if not torch.cuda.is_available() else "cpu")
    assert capfd.readouterr() == ("", "")
    assert sampler.device == torch.device("cpu")
    noise = sampler.noise([1])
    decoded = tiny_stable_diffusion().vae.decode(noise).sample
    assert torch.equal(sampler.pipe.vae.decode(noise).sample, decoded)
    assert not sampler.pipe.unet.training
    assert diffusers.utils.logging.is_progress_bar_enabled()


def test_a_tokenizer_may_be_only_a_sentencepiece_model(tmp_path):
    tiny("pixart-sigma", tmp_path)
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    with (tmp_path / "tokenizer/spiece.model").open("wb") as model:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a red ring in snow"]),
            model_writer=model,
            model_type="char",
            vocab_size=13,
            **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
            minloglevel=2,
        )
    tokenizer = load(tmp_path, family="pixart-sigma").pipe.tokenizer
    tokens = tokenizer("a red ring")["input_ids"]
    assert tokenizer.unk_token_id not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "a red ring"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions(saved, dtype):
    sampler = load(saved, dtype=dtype)
    assert sampler.dtype == getattr(torch, dtype)
    state, estimate = sampler.step(sampler.start(sampler.encode(["red"], [""]), [1, 2]))
    assert state.latents.dtype == estimate.dtype == sampler.dtype
    assert sampler.decode(estimate).shape == (2, 32, 32, 3)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_folder_of_nothing_but_fp16_weights(tmp_path, shards, dtype):
    tiny_stable_diffusion().to(torch.float16).save_pretrained(tmp_path, variant="fp16", **shards)
    files = [file.name for file in tmp_path.rglob("*.safetensors")]
    assert all(".fp16" in name for name in files)
    assert len(files) == 3 or shards
    own = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path, variant="fp16", dtype=getattr(torch, dtype), safety_checker=None
    )
    pipe = load(tmp_path, dtype=dtype).pipe
    for part in ("unet", "vae", "text_encoder"):
        wanted = getattr(own, part).state_dict()
        found = getattr(pipe, part).state_dict()
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
        assert found.keys() == wanted.keys()


@pytest.mark.parametrize("family", each("flux", "wan"))
def test_shards_of_fp16_weights_of_every_family(family, tmp_path):
    own = tiny(family).to(torch.float16)
    own.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    assert len(list(tmp_path.rglob("*.fp16-00001-of-*.safetensors"))) > 0
    model = Model(family=family, path=str(tmp_path), dtype="float16")
    pipe = load_pipeline(sampler_class(family).pipeline(), model, Runtime())
    for name, part in own.components.items():
        for key, value in part.state_dict().items() if hasattr(part, "state_dict") else ():
            assert torch.equal(getattr(pipe, name).state_dict()[key], value)


def test_of_mixed_weights_each_part_takes_what_fits(tmp_path):
    """The U-Net has both, the text encoder only half precision, the decoder only single."""
    half, single = tiny_stable_diffusion(seed=1).to(torch.float16), tiny_stable_diffusion()
    single.save_pretrained(tmp_path)
    half.unet.save_pretrained(tmp_path / "unet", variant="fp16")
    (tmp_path / "text_encoder/model.safetensors").unlink()
    half.text_encoder.save_pretrained(tmp_path / "text_encoder", variant="fp16")
    for dtype, unet in (
        ("float16", half.unet),
        ("float32", single.unet),
        ("bfloat16", single.unet),
    ):
        pipe = load(tmp_path, dtype=dtype).pipe
        precision = getattr(torch, dtype)
        assert torch.equal(pipe.unet.conv_in.weight, unet.conv_in.weight.to(precision))
        wanted = half.text_encoder.embeddings.token_embedding.weight
        found = pipe.text_encoder.embeddings.token_embedding.weight
        assert torch.equal(found, wanted.to(precision))
        assert torch.equal(
            pipe.vae.decoder.conv_in.weight, single.vae.decoder.conv_in.weight.to(precision)
        )


@pytest.mark.parametrize(
    ("path", "settings"),
    [("nowhere", {}), ("some/model", {}), ("no/such/folder", {"revision": "abc"})],
)
def test_neither_folder_nor_pinned_hub_id(path, settings):
    with pytest.raises(UserError, match=f"model.path: {path} is neither a folder nor a hub id"):
        load(path, **settings)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "expected JSON"),
        (
            lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            "is a FluxPipeline, not a StableDiffusionPipeline",
        ),
        (lambda f: shutil.rmtree(f / "tokenizer"), "has no folder tokenizer"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            r"unet has no \.safetensors file of weights$",
        ),
        (
            lambda f: (f / "vae/diffusion_pytorch_model.safetensors").rename(
                f / "vae/diffusion_pytorch_model.bin"
            ),
            "no .safetensors file of weights, but diffusion_pytorch_model.bin, a pickle, which",
        ),
        (
            lambda f: (f / "text_encoder" / "model.safetensors").write_bytes(b"not weights"),
            "cannot load",
        ),
    ],
)
def test_broken_folders(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder, family="stable-diffusion")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="needs torchvision to be missing")
def test_a_part_that_needs_another_package(folder):
    """As the processor of FLUX.2-dev does."""
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"the tokenizer of .* needs torchvision$") as caught:
        load(folder, family="stable-diffusion")
    assert "\n" not in str(caught.value)


def test_an_unusable_device(saved):
    with pytest.raises(UserError, match=r"runtime\.device: cuda:99 is not usable"):
        load(saved, device="cuda:99")


def test_the_package_is_light_to_import(saved):
    code = f"""
import sys
from ttsnap.diffusion.sources import find_family, read_model
assert find_family({str(saved)!r}) == "stable-diffusion"
read_model({str(saved)!r}, say=print)
sys.exit(bool({{'torch', 'diffusers'}} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_auto_is():
    cpu = torch.device("cpu")
    assert dtype_on(cpu, "auto") == torch.float32
    assert dtype_on(cpu, "bfloat16") == torch.bfloat16
    assert dtype_on(torch.device("mps"), "auto") == torch.float16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_what_auto_is_on_a_gpu(saved):
    wanted = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    sampler = load(saved, device="auto", dtype="auto")
    assert (sampler.device.type, sampler.dtype) == ("cuda", wanted)


def test_records_say_what_auto_was(saved):
    model = Model(path=str(saved), dtype="auto")
    assert model.family == "auto"
    found = settled(model, Runtime())
    assert (found.family, found.dtype) == ("stable-diffusion", "float32")
    assert load(saved, dtype="auto").dtype == torch.float32
