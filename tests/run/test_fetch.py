"""Fetching from a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from tests.hub import COMMIT, Hub, serving
from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import tiny_clip
from ttsnap.config import Config, RewardSettings, load_config
from ttsnap.diffusion.sources import TEXTS
from ttsnap.errors import UserError
from ttsnap.rewards import find_kind
from ttsnap.run.fetch import WEIGHTS, Source, sources
from ttsnap.run.pinning import gaps

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model": {"path": "tiny/generator", "revision": COMMIT},
    "rewards": {"clip": {"kind": "clip", "path": "tiny/clip", "revision": COMMIT}},
}


@dataclass
class Site:
    """A folder with a configuration and a cache, and the hub it knows."""

    folder: Path
    hub: Hub

    def python(self, code: str, *, offline: bool = False) -> subprocess.CompletedProcess[str]:
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(CONFIG))
        environment = os.environ | {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.folder / "hub"),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            [sys.executable, "-c", code, "fetch", "--config", str(config)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.folder,
            check=False,
        )

    def pin(self, config: str) -> subprocess.CompletedProcess[str]:
        """Fetch by a config of this text, and write commits into it."""
        (self.folder / "mine.yaml").write_text(config)
        return self.python(
            "import sys; from ttsnap.cli import main; sys.argv[1:] = ['fetch', '--pin', "
            "'mine.yaml']; main()"
        )

    def fetch(self) -> subprocess.CompletedProcess[str]:
        return self.python("from ttsnap.cli import main; main()")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("served")
    tiny_stable_diffusion(folder / "generator")
    # What a repository has beside what is needed.
    (folder / "generator/everything.ckpt").write_bytes(b"0" * 1000)
    (folder / "generator/unet/diffusion_pytorch_model.bin").write_bytes(b"0" * 1000)
    tiny_clip(folder / "clip")
    (folder / "clip/pytorch_model.bin").write_bytes(b"0" * 1000)
    (folder / "clip/chat_template.jinja").write_text("{{ messages }}")
    return {"tiny/generator": folder / "generator", "tiny/clip": folder / "clip"}


@pytest.fixture
def site(tmp_path: Path, folders: dict[str, Path]) -> Iterator[Site]:
    with serving(dict(folders)) as hub:
        yield Site(tmp_path, hub)


def test_what_was_fetched_is_whole_and_needs_no_network(site: Site) -> None:
    done = site.fetch()
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("model: tiny/generator@01234567: ")
    assert said[0].endswith("licence openrail")
    assert said[1].startswith("rewards.clip: tiny/clip@01234567: ")
    fetched = {path.name for path in (site.folder / "hub").rglob("*")}
    assert "chat_template.jinja" in fetched
    assert not {"everything.ckpt", "diffusion_pytorch_model.bin", "pytorch_model.bin"} & fetched

    site.hub.requests.clear()
    use = """
from ttsnap.config import load_config
from ttsnap.diffusion import load_sampler
from ttsnap.run.fetch import missing
from ttsnap.rewards import load_reward
config = load_config("config.yaml")
assert list(missing(config)) == []
sampler = load_sampler(config.model, config.sampling, config.runtime)
reward = load_reward(config.rewards["clip"], name="clip")
images = sampler.decode(sampler.start(sampler.encode(["red"], [""]), [1]).latents)
print(reward.score(images, ["red"]).shape)
"""
    used = site.python(use, offline=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout == "(1,)\n"
    assert site.hub.requests == []

    weights = next((site.folder / "hub").rglob("unet/*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.resolve().write_bytes(data)
    again = site.fetch()
    assert again.returncode == 1
    assert "diffusion_pytorch_model.safetensors is not what the hub has; delete" in again.stderr

    weights.unlink()
    check = """
from ttsnap.config import load_config
from ttsnap.run.fetch import missing
print(*missing(load_config("config.yaml")), sep="\\n")
"""
    lacking = site.python(check, offline=True)
    assert lacking.stdout == (
        "model: tiny/generator@01234567 is not on this machine: run `ttsnap fetch` with this "
        "configuration\n"
    )


def test_of_a_repository_the_variant_that_fits_is_fetched(site: Site) -> None:
    from diffusers import StableDiffusionPipeline

    folder = site.folder / "served"
    pipe = tiny_stable_diffusion(folder).to(torch.float16)
    pipe.save_pretrained(folder, variant="fp16")
    (folder / "text_encoder/model.safetensors").unlink()
    site.hub.folders["tiny/generator"] = folder
    load = """
from ttsnap.config import Model, Runtime, Sampling
from ttsnap.diffusion import load_sampler
model = Model(path="tiny/generator", revision=REVISION, dtype="float16")
print(load_sampler(model, Sampling(steps=2), Runtime()).pipe.unet.dtype)
"""
    done = site.python(load.replace("REVISION", repr(COMMIT)))
    assert done.returncode == 0, done.stderr
    fetched = {path.name for path in (site.folder / "hub").rglob("*.safetensors")}
    assert fetched == {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"}
    own = StableDiffusionPipeline.from_pretrained(folder, variant="fp16", dtype=torch.float16)
    assert done.stdout == f"{own.unet.dtype}\n"
    site.hub.requests.clear()
    again = site.python(load.replace("REVISION", repr(COMMIT)), offline=True)
    assert again.returncode == 0, again.stderr
    assert site.hub.requests == []


def test_a_gated_model_is_one_line_before_any_download(site: Site) -> None:
    site.hub.gated.add("tiny/generator")
    done = site.fetch()
    assert done.returncode == 1
    assert done.stderr == (
        f"ttsnap: model: tiny/generator@01234567: gated: accept its licence at {site.hub.url}"
        f"/tiny/generator, make a token at {site.hub.url}/settings/tokens, and set HF_TOKEN "
        "(licence: openrail)\n"
    )
    assert not any("resolve" in request for request in site.hub.requests)


def test_what_the_hub_does_not_have_is_one_line(site: Site) -> None:
    del site.hub.folders["tiny/clip"]
    done = site.fetch()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ttsnap: rewards.clip: tiny/clip@01234567: no such repository as")
    site.hub.url = "http://127.0.0.1:9"
    done = site.fetch()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ttsnap: model: tiny/generator@01234567: cannot be fetched from http")


UNPINNED = """\
# My own run.
model:
  path: tiny/generator  # which I like
  loras:
    - path: tiny/lora
      weight: style.safetensors
      scale: 0.5
rewards:
  clip: {kind: clip, path: tiny/clip}   # judges
  other: {kind: clip, path: tiny/clip, revision: main}
  folder: {kind: clip, path: .}
search: {reward: clip}
"""

PINNED = f"""\
# My own run.
model:
  path: tiny/generator  # which I like
  revision: {COMMIT}
  loras:
    - path: tiny/lora
      revision: {COMMIT}
      weight: style.safetensors
      scale: 0.5
rewards:
  clip: {{kind: clip, path: tiny/clip, revision: {COMMIT}}}   # judges
  other: {{kind: clip, path: tiny/clip, revision: {COMMIT}}}
  folder: {{kind: clip, path: .}}
search: {{reward: clip}}
"""


def test_commits_are_written_into_a_config(site: Site, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "style.safetensors").write_bytes(b"0" * 10)
    (lora / "README.md").write_text("")
    site.hub.folders["tiny/lora"] = lora
    done = site.pin(UNPINNED)
    assert done.returncode == 0, done.stderr
    assert (site.folder / "mine.yaml").read_text() == PINNED
    said = done.stdout.splitlines()
    assert said[0] == f"model: tiny/generator@{COMMIT}, the newest that the hub knows"
    assert [line.partition(":")[0] for line in said[:4]] == [
        *("model", "model.loras.0", "rewards.clip", "rewards.other")
    ]
    assert any(line.startswith("model.loras.0: tiny/lora@01234567: 1 files") for line in said)
    site.hub.requests.clear()
    again = site.pin(PINNED)
    assert again.returncode == 0, again.stderr
    assert (site.folder / "mine.yaml").read_text() == PINNED
    assert not any(line.startswith("GET api/models/tiny/clip ") for line in site.hub.requests)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model: {path: a/b}", "model: {path: a/b, revision: SHA}"),
        ("model: {path: 'a/b', revision: null}", "model: {path: 'a/b', revision: SHA}"),
        ("model:\n  revision:\n  path: a/b\n", "model:\n  revision: SHA\n  path: a/b\n"),
        ("model:\n  path: a/b", "model:\n  path: a/b\n  revision: SHA"),
        ("model: {components: a/b, path: /x}", "model: {components: a/b@SHA, path: /x}"),
        ("rewards: {a: {options: {clip: a/b@main:x.pt}}}", "clip: a/b@SHA:x.pt"),
        (f"model: {{path: a/b, revision: {COMMIT}}}", None),
        ("run: a", None),
        ("", None),
    ],
)
def test_where_a_commit_is_written(before: str, after: str | None) -> None:
    found = list(gaps(yaml.compose(before), before))
    assert len(found) == (after is not None)
    for gap in found:
        assert gap.repository == "a/b"
        written = before[: gap.start] + gap.before + "SHA" + gap.after + before[gap.stop :]
        assert after is not None
        assert after in written


def test_a_model_without_a_commit_on_the_command_line(site: Site) -> None:
    code = """
from ttsnap.diffusion.sources import read_model
model = read_model("tiny/generator", loras=["tiny/lora:0.5"], say=print)
print(model.family, model.revision, model.loras[0].revision, model.loras[0].weight)
"""
    lora = site.folder / "lora"
    lora.mkdir()
    (lora / "style.safetensors").write_bytes(b"0" * 10)
    site.hub.folders["tiny/lora"] = lora
    done = site.python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"tiny/generator: its newest commit is {COMMIT}",
        f"tiny/lora: its newest commit is {COMMIT}",
        f"stable-diffusion {COMMIT} {COMMIT} style.safetensors",
    ]
    alone = "from ttsnap.diffusion.sources import read_model\n" + (
        "model = read_model('tiny/generator', say=print); print(model.revision)"
    )
    for offline in (True, False):
        if not offline:
            site.hub.url = "http://127.0.0.1:9"
        done = site.python(alone, offline=offline)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"tiny/generator: the hub cannot be asked; the newest commit in the cache is {COMMIT}",
            COMMIT,
        ]
    other = alone.replace("tiny/generator", "tiny/other")
    done = site.python(other, offline=True)
    assert "UserError: tiny/other: cannot be fetched from http://127.0.0.1:9: " in done.stderr
    assert done.stderr.rstrip().endswith("or name a local folder")


def test_a_file_takes_its_texts_from_the_cache(site: Site) -> None:
    """SD 1.5 in one file: its configs and tokenizers are those of the repository of that model."""
    from tests import original

    pipe = tiny_stable_diffusion()
    usual = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    site.hub.folders[usual] = site.hub.folders["tiny/generator"]
    parts = [
        original.unet(pipe.unet),
        original.autoencoder(pipe.vae),
        original.clip(pipe.text_encoder, "cond_stage_model."),
    ]
    original.write(site.folder / "one.safetensors", parts)
    load = """
from ttsnap.config import Model, Runtime, Sampling
from ttsnap.diffusion import load_sampler
model = Model(path="one.safetensors")
print(load_sampler(model, Sampling(steps=2), Runtime()).pipe.unet.conv_in.weight.sum().item())
"""
    done = site.python(load, offline=True)
    assert "UserError: model.components: one.safetensors has neither configs nor" in done.stderr
    code = """
from ttsnap.config import Runtime, Sampling
from ttsnap.diffusion import load_sampler
from ttsnap.diffusion.sources import read_model
model = read_model("one.safetensors", say=print)
print(model.components)
load_sampler(model, Sampling(steps=2), Runtime())
"""
    done = site.python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{usual}: its newest commit is {COMMIT}",
        f"{usual}@{COMMIT}",
    ]
    assert not any("safetensors" in request for request in site.hub.requests)
    done = site.python(load, offline=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(pipe.unet.conv_in.weight.sum().item())


def test_sources_of_a_config() -> None:
    options = {"clip": f"org/towers@{COMMIT}", "file": "one.pt"}
    rewards = {
        "a": RewardSettings(kind="hpsv2", path="org/hps", revision=COMMIT, options=options),
        "b": RewardSettings(kind="brightness"),
        "c": RewardSettings(
            kind="x:Y", path=str(ROOT), options={"head": f"org/head@{COMMIT}:h.pth"}
        ),
    }
    found = list(sources(Config(rewards=rewards, search={"reward": "a"})))
    assert found == [
        Source("rewards.a", "org/hps", COMMIT, (*TEXTS, "one.pt")),
        Source("rewards.a.options.clip", "org/towers", COMMIT, TEXTS),
        Source("rewards.c.options.head", "org/head", COMMIT, ("h.pth",)),
    ]


@pytest.mark.parametrize("revision", ["main", "COMMIT", ""])
def test_a_branch_is_no_revision(tmp_path: Path, revision: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"model: {{path: org/model, revision: {revision}}}")
    wanted = r"model\.revision: .* org/model, .* digits, as https://huggingface\.co/org/model/"
    with pytest.raises(UserError, match=wanted) as refused:
        load_config(file)
    assert str(refused.value).endswith(f"not {revision or 'nothing'}")


def test_a_branch_in_an_option_is_no_revision() -> None:
    reward = RewardSettings(kind="hpsv2", path=str(ROOT), options={"clip": "org/towers@main"})
    config = Config(rewards={"a": reward}, search={"reward": "a"})
    with pytest.raises(UserError, match=r"rewards\.a\.options\.clip: org/towers@main: .* 40 hex"):
        list(sources(config))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_files_of_kinds_are_their_defaults(kind: str) -> None:
    assert find_kind(kind).Options.model_fields["file"].default == WEIGHTS[kind]
