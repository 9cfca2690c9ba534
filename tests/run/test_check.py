"""What a configuration may not say of methods, families and rewards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ttsnap.config import DEFAULT_YAML, Config, load_config
from ttsnap.diffusion.architectures import Architecture, model_tflops
from ttsnap.errors import UserError
from ttsnap.run.check import check, names, unserved
from ttsnap.schedule import CostModel
from ttsnap.searching.pricing import score_tflops

ROOT = Path(__file__).parents[2]
LIVE = ("ltx", "wan", "wan22")
"""For searches alone: videos, which trajectories of the workflow do not store."""

PUBLISHED = sorted(
    path.stem for path in (ROOT / "config").glob("*.yaml") if path.stem not in ("methods", *LIVE)
)


def complaints(given: dict[str, Any], *, workflow: bool = False) -> list[str]:
    try:
        check(load_config(given), workflow=workflow)
    except UserError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("name", [*PUBLISHED, *LIVE])
def test_what_is_shipped_is_allowed(name: str) -> None:
    config = load_config(ROOT / "config" / f"{name}.yaml")
    check(config, workflow=name in PUBLISHED)


def test_names_are_those_of_the_registries() -> None:
    known = names()
    assert {"stable-diffusion", "flux"} <= {*known["families"]}
    assert {"best-of-n", "ttsnap"} <= {*known["methods"]}
    assert {"clip", "ensemble"} <= {*known["kinds"]}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"model": {"family": "fluxx"}},
            "model.family: fluxx is unknown; did you mean flux?",
        ),
        (
            {"search": {"methods": ["bem"]}},
            "search.methods.0: bem is unknown; did you mean beam?",
        ),
        (
            {"search": {"methods": ["best-of-n@preview"]}},
            "search.methods.0: best-of-n@preview is unknown; did you mean best-of-n?",
        ),
        (
            {"model": {"preview": None}, "search": {"methods": ["best-of-n", "ttsp@preview"]}},
            "search.methods.1: ttsp@preview sees previews, and model.preview is not {kind: linear}",
        ),
        (
            {"search": {"methods": ["?"]}},
            "search.methods.0: ? is unknown; expected one of best-of-n, ttsnap, ttsp, ",
        ),
        (
            {"search": {"options": {"bem": {}}}},
            "search.options.bem: bem is unknown; did you mean beam?",
        ),
        (
            {"rewards": {"clip": {"kind": "clipp"}}},
            "rewards.clip.kind: clipp is neither MODULE:CLASS nor aesthetic, brightness, ",
        ),
        (
            {
                "rewards": {
                    "clip": {"path": "a"},
                    "both": {
                        "kind": "ensemble",
                        "options": {"rewards": {"clip": {"kind": "hpsv"}}},
                    },
                }
            },
            "rewards.both.options.rewards.clip.kind: hpsv is neither MODULE:CLASS nor ",
        ),
        (
            {"search": {"options": {"beam": {"noise": 2}}}},
            "search.options.beam: method beam: has no option noise; it has beams, noises, steps",
        ),
        (
            {"search": {"options": {"ttsp": {"schedule": "2:half"}}}},
            "search.options.ttsp: schedule '2:half': expected STEP:KEEP",
        ),
        (
            {"search": {"options": {"ttsp": {"schedule": "2:0.5,12:0.5"}}}},
            "search.options.ttsp: schedule 2:0.5,12:0.5: step 12 is too late",
        ),
        (
            {"search": {"options": {"draft": {"draft_steps": 4, "prune": "12:0.5"}}}},
            "search.options.draft: schedule 12:0.5: step 12 is too late",
        ),
        (
            {"sampling": {"steps": 4}, "search": {"options": {"zero-order": {"step": 4}}}},
            "search.options.zero-order: step 4 is beyond the last step 3",
        ),
        (
            {"sampling": {"steps": 4}, "search": {"options": {"smc": {"steps": [1, 7]}}}},
            "search.options.smc: step 7 is beyond the last step 3",
        ),
    ],
)
def test_what_nothing_has_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    (said,) = complaints(given)
    assert said.startswith(line)


def test_a_kind_is_suggested_and_one_of_your_own_is_taken() -> None:
    (line,) = complaints({"rewards": {"clip": {"kind": "clipp"}}})
    assert line.endswith("; did you mean clip?")
    assert complaints({"rewards": {"clip": {"kind": "mine:Redness"}}}) == []


def test_every_problem_gets_its_line() -> None:
    given = {"model": {"family": "sdx"}, "search": {"methods": ["ttsnp", "bem"]}}
    assert [line.split(":")[0] for line in complaints(given)] == [
        "model.family",
        "search.methods.0",
        "search.methods.1",
    ]
    given = {
        "sampling": {"scheduler": {"name": "DDIMScheduler", "options": {"eta": 1.0}}},
        "rewards": {"clip": {"kind": "brightness"}},
        "search": {"options": {"beam": {"beams": 0}, "ttsp": {"schedules": ""}}},
    }
    assert [line.split(":")[0] for line in complaints(given, workflow=True)] == [
        "search.options.beam",
        "search.options.ttsp",
        "rewards.clip",
    ]


def pushed(**scheduler: Any) -> dict[str, Any]:
    """Settings of negative token merging with a scheduler."""
    return {"sampling": {"scheduler": scheduler, "negtome": {"group": 2}}}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"model": {"family": "ltx"}}, "model.family: ltx makes videos, whose steps are not"),
        (
            pushed(name="EulerAncestralDiscreteScheduler"),
            "sampling.negtome: needs a deterministic scheduler, and EulerAncestralDiscrete",
        ),
        (
            pushed(name="EDMHeunScheduler", options={"S_churn": 40.0}),
            "sampling.negtome: needs a deterministic scheduler, and EDMHeunScheduler adds noise",
        ),
        (
            pushed(
                name="DPMSolverMultistepScheduler", options={"algorithm_type": "sde-dpmsolver++"}
            ),
            "sampling.negtome: needs a deterministic scheduler, and DPMSolverMultistepSch",
        ),
        (
            {"rewards": {"clip": {"kind": "compressibility"}}},
            "rewards.clip: kind compressibility cannot be finetuned",
        ),
        # Whatever one image costs, the smallest budget must buy one.
        (
            {
                "simulation": {"budgets": [1.0, 25.0]},
                "search": {"budgets": [20.0]},
                "splits": {"test": {"images": 24}},
            },
            "simulation.budgets.1: 25 buys 25 images of a prompt if 1 buys one, but "
            "splits.test.images is 24",
        ),
        (
            {"simulation": {"budgets": [1.0, 24.0]}, "search": {"budgets": [2.0, 33.0]}},
            "search.budgets.1: 33 buys 33 images of a prompt if 1 buys one, but "
            "splits.val.images is 32",
        ),
    ],
)
def test_a_search_may_do_what_a_workflow_may_not(given: dict[str, Any], line: str) -> None:
    assert complaints(given) == []
    (said,) = complaints(given, workflow=True)
    assert said.startswith(line)


def priced(**budgets: Any) -> dict[str, Any]:
    """Full runs of 12 + 0.5 + 0.5 = 13 TFLOPs."""
    costs = {"denoise": 1.0, "decode": 0.5, "rewards": {"clip": 0.5}}
    simulation = {"budgets": [13.0, 13.0 * 24], **budgets.pop("simulation", {})}
    return {"costs": costs, "simulation": simulation, "search": {"budgets": [26.0], **budgets}}


def test_budgets_are_compared_with_the_pools_where_prices_are_given() -> None:
    assert complaints(priced(), workflow=True) == []
    small = priced(simulation={"budgets": [12.9, 130.0]})
    assert complaints(small, workflow=True) == [
        "simulation.budgets.0: 12.9 TFLOPs buys no image, of which one costs 13"
    ]
    large = priced(simulation={"budgets": [13.0, 13.0 * 33]}, budgets=[12.0])
    assert complaints(large, workflow=True) == [
        f"simulation.budgets.1: 429 TFLOPs buys 33 images of a prompt, but "
        f"splits.{split}.images is {images}"
        for split, images in (("test", 32), ("val", 32))
    ] + ["search.budgets.0: 12 TFLOPs buys no image, of which one costs 13"]


def test_given_checks_need_two_budgets_that_the_pool_serves() -> None:
    """Nothing is planned then, so that only test and the budgets of the simulation count."""
    checks = [{"step": 2, "keep": 0.1}]
    fits = priced(simulation={"checks": checks, "budgets": [26.0, 52.0]}, budgets=[1.0, 1e9])
    assert complaints(fits, workflow=True) == []
    # Of 24 full runs' worth, pruned at step 2, there are more than 32.
    wide = priced(simulation={"checks": checks, "budgets": [26.0, 13.0 * 24]})
    (line,) = complaints(wide, workflow=True)
    assert line.startswith("simulation.budgets: 1 of them buy with simulation.checks no more than")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shipped_budgets_are_served_at_counted_prices(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the rule `budgets` will find them, which asks the loaded models."""
    monkeypatch.chdir(ROOT)
    config: Config = load_config(ROOT / "config" / f"{name}.yaml")
    sampling = config.sampling
    counted = model_tflops(
        Architecture.of(config.model), sampling.height, sampling.width, sampling.guidance_scale
    )
    budgets = {"simulation": config.simulation.budgets, "search": config.search.budgets}
    images = {"val": config.splits.val.images, "test": config.splits.test.images}
    for reward in config.pipeline_rewards:
        score = score_tflops(config, reward, sampling.height, sampling.width)
        costs = CostModel(counted["denoise"], counted["decode"], score, steps=sampling.steps)
        assert list(unserved(budgets, images, config.simulation.checks, costs)) == []


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ttsnap.config import load_config; from ttsnap.run.check import check; "
        f"check(load_config({str(DEFAULT_YAML)!r}), workflow=True); "
        "print({'torch', 'diffusers', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_workflow_with_a_model_of_ones_own_takes_nothing_of_the_embedded_world() -> None:
    given: dict[str, Any] = {"model": {"path": "mine", "family": "sdxl"}, "sampling": {"steps": 12}}
    (line,) = complaints(given, workflow=True)
    assert line.startswith("sampling: lacks guidance_scale, height, width, scheduler; a workflow")
    assert complaints(given) == []
    given["sampling"] |= {"guidance_scale": 1.5, "height": 32, "width": 32, "scheduler": {}}
    assert complaints(given, workflow=True) == []
