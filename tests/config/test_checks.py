"""What is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from ttsnap.config import Config, Model, load_config
from ttsnap.errors import UserError

HUB = {"path": "laion/CLIP-ViT-H-14"}


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Unknown keys
        ("narv", {}, "narv: unknown key; did you mean narf?"),
        ("narf.lora.rnk", 4, "narf.lora.rnk: unknown key; did you mean rank?"),
        ("rewards.clip", {"path": "a", "pathe": "b"}, "rewards.clip.pathe: unknown key; did you"),
        ("splits.tests", {}, "splits.tests: unknown key; did you mean test?"),
        ("splits.val.image", 3, "splits.val.image: unknown key; did you mean images?"),
        ("simulation.checks", [{"step": 1, "keep": 1, "stop": 2}], "simulation.checks.0.stop: unk"),
        ("seed.root", 1, 'seed: should be a valid integer, not {"root": 1}'),
        ("draft", {"steps": 12}, "draft.steps: a draft of 12 steps is no cheap look at a run"),
        # Wrong types
        ("sampling.steps", "12", 'sampling.steps: should be a valid integer, not "12"'),
        ("sampling.steps", 12.0, "sampling.steps: should be a valid integer, not 12.0"),
        ("sampling.steps", True, "sampling.steps: should be a valid integer, not true"),
        ("narf.weight_decay", True, "narf.weight_decay: should be a valid number, not true"),
        ("narf.learning_rate", "1e-3", 'should be a number, not the text "1e-3"; YAML wants'),
        ("narf.clip_norm", float("nan"), "narf.clip_norm: should be a finite number, not NaN"),
        ("narf", None, "narf: should be a section of settings, not null"),
        ("splits", [], "splits: should be a section of settings, not []"),
        ("splits.val", 3, "splits.val: should be a section of settings, not 3"),
        ("run", 3, "run: should be a valid string, not 3"),
        # Impossible values
        ("run", "a/b", "run: should match pattern"),
        ("results", "", "results: should have at least 1 character"),
        ("runtime.device", "gpu", "runtime.device: should match pattern"),
        (
            "runtime",
            {"device": "cuda:1", "processes": 2},
            "runtime.device: cuda:1 is for one process",
        ),
        ("narf.method", "qlora", "narf.method: should be 'lora' or 'full', not \"qlora\""),
        ("sampling.steps", 0, "sampling.steps: should be greater than 0, not 0"),
        ("sampling.height", 30, "sampling.height: should be a multiple of 4, not 30"),
        ("sampling.scheduler.name", "DDIM", "sampling.scheduler.name: should match pattern"),
        ("rewards", {}, "rewards: dictionary should have at least 1 item"),
        ("rewards", {"a b": HUB}, "rewards.a b: should match pattern"),
        (
            "rewards",
            {"clip": {"path": "a"}, "both": {"kind": "ensemble", "options": {"rewards": {"b": 1}}}},
            "rewards.both.options.rewards.b: is no reward to build on, which are clip",
        ),
        ("search.reward", "hps", "search.reward: hps is none of the rewards (clip)"),
        ("costs.rewards", {"hps": 0.3}, "costs.rewards: hps is none of the rewards (clip)"),
        ("costs.denoise", 0.0, "costs.denoise: should be greater than 0, not 0.0"),
        ("search.methods", ["ttsnap"] * 2, "search.methods.1: ttsnap is listed twice"),
        ("search.judge_reward", "hps", "search.judge_reward: hps is none of the rewards (clip)"),
        ("search.judge_reward", "clip", "search.judge_reward: clip is the reward that searches"),
        ("search.budgets", [], "search.budgets: list should have at least 1 item"),
        ("search.budgets", [0.1, 0], "search.budgets.1: should be greater than 0, not 0"),
        ("search.budgets", [2, 1.5], "search.budgets.1: 1.5 does not follow 2; the values must"),
        # Revisions
        ("model", HUB, "model.revision: must be the commit of laion/CLIP-ViT-H-14"),
        ("rewards", {"clip": HUB}, "rewards.clip.revision: must be the commit of laion/CLIP-"),
        # Steps
        ("narf.steps", [], "narf.steps: list should have at least 1 item"),
        ("narf.steps", [2, 3, 14], "narf.steps.2: 14 is beyond the last step 11"),
        ("narf.steps", [2, 4, 3], "narf.steps.2: 3 does not follow 4; the values must increase"),
        ("narf.steps", [2, 2], "narf.steps.1: 2 does not follow 2; the values must increase"),
        ("narf.steps", [-1, 1], "narf.steps.0: should be greater than or equal to 0, not -1"),
        ("narf.steps", [2, 8, 11], "splits.train.steps: lacks 8, needed by narf.steps"),
        ("splits.val.steps", [2, 3, 4], "splits.val.steps: lacks 5, 6, needed by narf.steps"),
        ("splits.test.steps", [3, 7, 12], "splits.test.steps.2: 12 is beyond the last step 11"),
        # Checks
        ("simulation.checks", [], "simulation.checks: list should have at least 1 item"),
        (
            "simulation.checks",
            [{"step": 11, "keep": 0.5}],
            "simulation.checks.0.step: 11 is beyond the last useful step 10 of 12 steps",
        ),
        (
            "simulation.checks",
            [{"step": 4, "keep": 0.5}, {"step": 4, "keep": 0.4}],
            "simulation.checks.1.step: 4 does not follow 4; the values must increase",
        ),
        (
            "simulation.checks",
            [{"step": 4, "keep": 0}],
            "simulation.checks.0.keep: should be greater than 0, not 0",
        ),
        (
            "simulation.checks",
            [{"step": 4, "keep": 1.5}],
            "simulation.checks.0.keep: should be less than or equal to 1, not 1.5",
        ),
        # Splits
        ("splits.val.stop", 4000, "splits.val.stop: 4000 is not above start 4000"),
        (
            "splits.val.start",
            999,
            "splits.val: prompts 999 to 4040 overlap with those of splits.train, 0 to 1000",
        ),
        (
            "splits.test",
            {"file": "config/../config/prompts/shapes.json", "start": 0, "stop": 1},
            "splits.test: prompts 0 to 1 overlap with those of splits.train",
        ),
    ],
)
def test_a_bad_value_is_refused_with_its_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(nested(path, value))
    line = str(caught.value)
    assert message in line
    assert line.startswith("config: ")
    assert "\n" not in line


def test_steps_of_given_checks_must_be_stored() -> None:
    """Planned ones are wherever there are rewards."""
    stored = nested("splits.test.steps", [3])
    assert load_config(stored).simulation.checks is None
    checks = [{"step": 3, "keep": 0.5}, {"step": 7, "keep": 0.5}]
    with pytest.raises(UserError, match=r"test\.steps: lacks 7, needed by simulation\.checks"):
        load_config(stored | nested("simulation.checks", checks))


def test_values_that_touch_the_limits_pass() -> None:
    splits = {"train": {"steps": [0, 1]}, "val": {"steps": [0]}, "test": {"steps": [10]}}
    checks = [{"step": 10, "keep": 1}]
    # The last step is stored without being listed; other files may hold the same range.
    load_config(
        {"splits": splits, "narf": {"steps": [0, 11]}, "simulation": {"checks": checks}}
        | {"model": HUB | {"revision": "0123abcd" * 5}}
    )
    load_config(nested("splits.val", {"file": "other.json", "start": 0, "stop": 1}))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"sampling": {"negtome": {"reference": 8}}}, "reference: 8 is none of a group of 8"),
        ({"sampling": {"negtome": {"t_start": 1, "t_end": 2}}}, "t_end: 2 is above t_start 1"),
        ({"sampling": {"negtome": {"group": 5}}}, "splits.train.images: 2 is no multiple of"),
        ({"sampling": {"negtome": {}}, "runtime": {"compile": True}}, "runtime.compile: cannot be"),
        ({"sampling": {"negtome": {}}, "runtime": {"batch_size": 4}}, "batch_size: 4 is less than"),
        (
            {"narf": {"learning_rates": {"no": 1.0}}},
            "narf.learning_rates: no is none of the rewards",
        ),
    ],
)
def test_groups_and_rates_that_are_impossible(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_config(settings)


def test_records_of_plain_runs_are_those_of_before_there_were_loras_and_kinds_of_previews() -> None:
    plain = Model(preview=None, autocast="off").model_dump_json()
    assert plain == (
        '{"family":"stable-diffusion","path":"ttsnap/shapes/weights/generator","revision":null,'
        '"dtype":"float32","preview":null,"vae_tiling":false}'
    )
    assert "kind" not in Model(preview={"path": "taesd"}).model_dump_json()
    with_lora = Model(path="a", loras=[{"path": "b.safetensors"}], components="c")
    assert with_lora == Model.model_validate_json(with_lora.model_dump_json())
    assert '"loras":[{"path":"b.safetensors"' in with_lora.model_dump_json()


@pytest.mark.parametrize(
    ("preview", "complaint"),
    [
        ({}, "model.preview.*path: Field required"),
        ({"kind": "linear", "path": "a"}, "model.preview.*path: a linear one is fitted"),
        ({"kind": "cubic"}, "model.preview.kind"),
    ],
)
def test_previews_that_are_none(preview: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_config({"model": {"preview": preview}})


def test_a_linear_preview_is_a_second_look_and_a_tiny_one_the_only_one() -> None:
    assert Model(preview=None).looks == ("decode",)
    assert Model(preview={"kind": "linear"}).looks == ("decode", "preview")
    assert Model(preview={"path": "taesd"}).looks == ("preview",)
    assert load_config({"model": {"path": "somewhere"}}).model.looks == ("decode",)


def test_a_path_without_more_leaves_family_and_device_to_files_and_machine() -> None:
    config = load_config({"model": {"path": "somewhere"}})
    assert (config.model.family, config.runtime.device) == ("auto", "auto")
    given = {"model": {"path": "somewhere", "family": "sdxl"}, "runtime": {"device": "cpu"}}
    config = load_config(given)
    assert (config.model.family, config.runtime.device) == ("sdxl", "cpu")
    assert (Config().model.family, Config().runtime.device) == ("stable-diffusion", "cpu")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"loras": [{"path": "org/lora", "weight": "a"}]},
            r"model\.loras\.0\.revision: must be the",
        ),
        (
            {"loras": [{"path": "org/lora", "revision": "0" * 40}]},
            r"loras\.0\.weight: must name the",
        ),
        ({"vae": {"path": "org/vae"}}, r"model\.vae\.revision: must be the commit of org/vae"),
        ({"components": "org/parts"}, r"model\.components: org/parts must name a folder that exi"),
        ({"components": "org/parts@main"}, r"model\.components: org/parts@main must name a folder"),
        ({"dtype": "fp16"}, r"model\.dtype: should be 'auto', 'float32', .*, not \"fp16\""),
    ],
)
def test_parts_of_a_model_from_the_hub_are_pinned(model: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config({"model": model})
    assert "\n" not in str(caught.value)
