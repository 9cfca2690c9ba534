"""Files and mappings in, settings out, or one line per problem."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ttsnap.config import Config, Sampling, load_config, typed
from ttsnap.errors import UserError


def test_ensembles_are_given_the_settings_of_their_members() -> None:
    pick = {"path": "pick", "options": {"factor": 2.0}}
    both = {"pick": 2, "small": {"mean": 0.5, "std": 0.1}}
    config = load_config(
        {
            "rewards": {
                "pick": pick,
                "small": {"kind": "compressibility"},
                "both": {"kind": "ensemble", "options": {"rewards": both, "by": "zscore"}},
            },
            "search": {"reward": "both"},
        }
    )
    members = config.rewards["both"].options["rewards"]
    common = {"revision": None, "options": {}}
    assert members == {
        "pick": common | pick | {"kind": "clip", "weight": 2},
        "small": common | {"kind": "compressibility", "path": None, **both["small"]},
    }
    assert load_config(config.model_dump()) == config


def test_a_partial_config_is_completed() -> None:
    config = load_config({"splits": {"val": {"stop": 4050}}, "narf": {"lora": {"rank": 4}}})
    assert config.splits.val == Config().splits.val.model_copy(update={"stop": 4050})
    assert config.splits.train == Config().splits.train
    assert config.narf.lora == Config().narf.lora.model_copy(update={"rank": 4})
    assert load_config({}) == Config()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20, 50])
def test_steps_follow_those_of_sampling_where_nothing_is_said(steps: int) -> None:
    config = load_config({"sampling": {"steps": steps}})
    assert config.narf.steps == list(range(max(1, int(0.6 * steps))))
    assert {*config.narf.steps} <= {*config.splits.train.stored(steps)}
    assert config.splits.val.stored(steps) == list(range(steps))
    # Only what is not said is filled in, and the rest of a section keeps its own defaults.
    given = {"splits": {"train": {"images": 5, "steps": None}}, "narf": {"steps": [0]}}
    config = load_config({"sampling": Sampling(steps=steps)} | given)
    assert (config.splits.train.steps, config.splits.train.images) == (None, 5)
    assert config.narf.steps == [0]
    assert load_config(config.model_dump()) == config


def test_the_embedded_default_has_steps_of_its_own_and_other_numbers_of_steps_theirs() -> None:
    config = load_config({})
    assert config.sampling.steps == 12
    assert config.splits.train.steps == config.narf.steps == [2, 3, 4, 5, 6]
    assert config.splits.val.steps == config.splits.test.steps == [2, 3, 4, 5, 6, 7, 8]
    other = load_config({"sampling": {"steps": 10}})
    assert other.splits.train.steps == [*range(7)]
    assert other.narf.steps == [*range(6)]
    assert other.splits.val.steps is other.splits.test.steps is None
    assert load_config({"sampling": {"guidance_scale": 3.0}}).narf == config.narf


def test_rewards_of_ones_own_are_finetuned_with_care() -> None:
    own = load_config(
        {"rewards": {"mine": {"kind": "clip", "path": "a"}}, "search": {"reward": "mine"}}
    )
    assert (own.narf.learning_rate, own.narf.epochs, own.narf.batch_size) == (3e-4, 2, 100)
    said = {"rewards": {"clip": {"kind": "clip", "path": "a"}}, "narf": {"epochs": 7}}
    assert (load_config(said).narf.epochs, load_config(said).narf.batch_size) == (7, 100)


def test_whole_numbers_pass_as_numbers() -> None:
    guidance = load_config({"sampling": {"guidance_scale": 7}}).sampling.guidance_scale
    assert isinstance(guidance, float)
    assert guidance == 7


def test_every_problem_gets_its_line() -> None:
    with pytest.raises(UserError) as caught:
        load_config({"narf": {"stepz": [1], "epochs": 0}, "seed": -1})
    assert str(caught.value).splitlines() == [
        "config: seed: should be greater than or equal to 0, not -1",
        "config: narf.epochs: should be greater than 0, not 0",
        "config: narf.stepz: unknown key; did you mean steps?",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"narf:\n  steps: [14]\n", ": narf.steps.0: 14 is beyond the last step 11"),
        (b"narf: [1,\n", ":2:1: not YAML: "),
        (b"- a\n", ": expected sections of settings, not a list"),
        (b"run: caf\xe9\n", ": not YAML: "),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_and_an_empty_one_is_the_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").touch()
    assert load_config(tmp_path / "empty.yaml") == Config()


def test_settings_load_without_torch() -> None:
    code = (
        "import sys, ttsnap.config, ttsnap.prompts; print({'torch', 'diffusers'} & {*sys.modules})"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert out.stdout == "set()\n"


def test_small_numbers_survive_json(tmp_path: Path) -> None:
    config = Config(narf={"learning_rate": 5e-7})
    file = tmp_path / "config.json"
    file.write_text(config.model_dump_json())
    assert load_config(file) == config
    file.write_text('{"narf": ')
    with pytest.raises(UserError, match=r"config\.json:1:10: not JSON"):
        load_config(file)


def test_values_of_the_command_line_are_read_as_yaml() -> None:
    given = {"a": "4", "b": ["0.5", "true", {"c": "null"}], "d": 3, "e": "text"}
    assert typed(given) == {"a": 4, "b": [0.5, True, {"c": None}], "d": 3, "e": "text"}
