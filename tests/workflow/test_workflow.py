from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diffusers import EulerDiscreteScheduler

from tests.workflow.conftest import PROMPTS, Workflow
from ttsnap.config import Model, RewardSettings, Runtime, Sampling
from ttsnap.diffusion import load_sampler
from ttsnap.diffusion.linear_preview import LinearPreview
from ttsnap.rewards import load_reward
from ttsnap.schedule import read_plan
from ttsnap.store.tensors import RewardTensor, read_table
from ttsnap.store.trajectories import open_store
from ttsnap.store.verify import verify


def test_lint_finds_nothing(workflow: Workflow) -> None:
    done = workflow.snakemake("--lint")
    assert done.returncode == 0, done.stderr


def test_dry_run_of_a_fresh_folder_plans_every_stage(workflow: Workflow) -> None:
    jobs = workflow.planned("run=fresh")
    assert jobs == {
        "model": 1,
        "trajectory_store": 3,
        "awaited_trajectories": 2 + 1,
        "trajectories": 2,
        "preview": 1,
        "reward_cost": 1,
        "budgets": 1,
        "rewards": 2,
        "narf": 4,
        "tensor": 8,
        "evaluate": 2,
        "drafts": 1 + 2,
        "plan": 1,
        "simulate": 1,
        "search": 3 * 2,
        "report": 1,
        "page": 1,
    }


def test_a_tensor_of_more_than_a_million_images_is_scored_by_several_jobs(
    workflow: Workflow,
) -> None:
    """Two blocks of 100,000 x 3 x 4 images are one job each; val has one block and one job."""
    splits = {**workflow.settings["splits"]}
    splits["test"] = {**splits["test"], "images": 100_000}
    jobs = workflow.planned("run=fresh", f"splits={json.dumps(splits)}")
    assert (jobs["tensor"], jobs["tensor_block"]) == (8, 8)


def test_drafts_are_the_pipelines_own_cheap_runs_and_have_plans(finished: Workflow) -> None:
    folder = finished.run / "drafts/clip/test"
    receipts = [json.loads(file.read_bytes()) for file in folder.glob("*.json")]
    assert [(one["shape"][1], one["evaluations"]) for one in receipts] == [(8, 2 * 0.5)] * 2
    rewards = np.concatenate([np.load(file) for file in sorted(folder.glob("*.npy"))])
    store = open_store(finished.run / "trajectories/test.zarr")
    sampling = Sampling.model_validate(finished.settings["sampling"])
    generator = Model(path=str(finished.folder / "generator"))
    sampler = load_sampler(generator, sampling, Runtime(device="cpu"))
    sampler.pipe.scheduler = EulerDiscreteScheduler.from_config(
        sampler.pipe.scheduler.config, **finished.settings["sampling"]["scheduler"]["options"]
    )
    prompts = [store.prompts[4].text] * 8
    drawn = sampler.pipe(
        prompts,
        num_inference_steps=2,
        guidance_scale=1.0,
        height=sampler.height,
        width=sampler.width,
        latents=sampler.noise(store.seeds[4].tolist()),
        output_type="np",
    ).images
    reward = load_reward(RewardSettings(path=str(finished.folder / "clip")), name="clip")
    seen = reward.score(np.round(drawn * 255).astype(np.uint8), prompts)
    np.testing.assert_allclose(rewards[4], seen, atol=1e-3)
    assert read_plan(finished.run / "plan/clip.json")["draft"] == {"steps": 2, "guided": False}
    evaluated = pd.read_csv(finished.run / "evaluation/clip.csv")
    assert len(evaluated[evaluated.kind == "draft"]) == 4
    omega = pd.read_csv(finished.run / "simulation/clip/omega.csv")
    assert {"draft", "draft+ttsp", "draft+ttsnap", "best"} <= {*omega.strategy}


def test_a_finished_run_has_nothing_to_do(finished: Workflow) -> None:
    done = finished.snakemake()
    assert done.returncode == 0, done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_family_that_is_named_is_the_one_that_files_say(finished: Workflow) -> None:
    assert finished.planned("model={path: generator, family: stable-diffusion, loras: []}") == {}


def test_an_autoencoder_reruns_all_that_the_model_makes(finished: Workflow) -> None:
    jobs = finished.planned("model={path: generator, vae: {path: generator/vae}}")
    assert jobs == finished.planned("run=fresh")


def test_a_lora_reruns_all_that_the_model_makes(finished: Workflow) -> None:
    lora = finished.folder / "style.safetensors"
    lora.write_bytes(b"")
    jobs = finished.planned("model={path: generator, loras: [{path: style.safetensors}]}")
    lora.unlink()
    assert jobs == finished.planned("run=fresh")


def test_new_budgets_rerun_planning_and_what_follows(finished: Workflow) -> None:
    budgets = finished.settings["simulation"]["budgets"]
    changed = json.dumps({"budgets": [1.01 * budget for budget in budgets]})
    jobs = finished.planned(f"simulation={changed}")
    # Of the live searches only TTSnap's take their schedule from the plan.
    assert jobs == {"budgets": 1, "plan": 1, "simulate": 1, "search": 2, "report": 1, "page": 1}


def test_another_method_reruns_no_other(finished: Workflow) -> None:
    methods = [*finished.settings["search"]["methods"], "ttsnap+zero-order"]
    assert finished.planned(f"search={json.dumps({'methods': methods})}") == {
        "search": 2,
        "report": 1,
        "page": 1,
    }


def test_a_figure_that_is_missing_is_drawn(finished: Workflow) -> None:
    """As those are which a changed setting adds."""
    figure = finished.run / "report/live.png"
    aside = figure.rename(figure.with_suffix(".aside"))
    try:
        assert finished.planned() == {"report": 1, "page": 1}
    finally:
        aside.rename(figure)


def test_a_new_learning_rate_leaves_trajectories_and_ground_truth_alone(
    finished: Workflow,
) -> None:
    jobs = finished.planned('narf={"learning_rate": 0.0002}')
    assert jobs == {
        "narf": 4,
        "tensor": 4,
        "evaluate": 2,
        "plan": 1,
        "simulate": 1,
        "search": 2,
        "report": 1,
        "page": 1,
    }


def test_site_settings_rerun_nothing(finished: Workflow) -> None:
    assert finished.planned('runtime={"batch_size": 5, "processes": 2}') == {}


def test_a_copy_has_nothing_to_do_and_other_weights_have(
    finished: Workflow, tmp_path: Path
) -> None:
    """Of dates only the order of what a run itself writes counts, and that by content, too."""
    copy = Workflow(tmp_path / "copy", finished.settings)
    subprocess.run(["cp", "-r", finished.folder, copy.folder], check=True)
    assert copy.planned() == {}
    weights = [*copy.folder.rglob("*.safetensors")]
    assert len(weights) > 6
    for file in weights:
        file.touch()
    assert copy.planned() == {}

    def change(file: Path) -> None:
        held, stat = file.read_bytes(), file.stat()
        file.write_bytes(bytes([*held[:-1], held[-1] ^ 1]))
        os.utime(file, (stat.st_atime, 1e9))  # an older file counts as well

    change(copy.folder / "other/model.safetensors")  # of the reward that judges
    assert copy.planned() == {"search": 3 * 2, "report": 1, "page": 1}
    change(copy.folder / "clip/model.safetensors")
    jobs = copy.planned()
    assert not {"model", "trajectory_store", "trajectories", "awaited_trajectories"} & {*jobs}
    assert {"reward_cost", "rewards", "narf", "tensor", "search"} <= {*jobs}
    change(copy.folder / "generator/unet/diffusion_pytorch_model.safetensors")
    assert copy.planned() == finished.planned("run=fresh")


def test_budgets_that_the_images_cannot_serve_are_refused_before_finetuning(
    workflow: Workflow,
) -> None:
    """Prices are not given, and the smallest budget buys two images: nothing shows when read."""
    smallest = workflow.settings["simulation"]["budgets"][1]
    budgets = json.dumps({"budgets": [smallest, 4.5 * smallest]})
    done = workflow.snakemake("--config", "run=over", f"simulation={budgets}")
    assert done.returncode != 0
    assert re.search(
        r"error: simulation.budgets.1: .* buys 9 images of a prompt, but splits.test.images is 8",
        done.stdout + done.stderr,
    )
    assert not (workflow.folder / "results/over/narf").exists()
    assert not (workflow.folder / "results/over/logs/narf").exists()


def test_a_changed_prompt_redoes_only_its_split(finished: Workflow) -> None:
    file = finished.folder / "prompts.json"
    before = file.read_text(encoding="utf-8")
    file.write_text(json.dumps([*PROMPTS[:6], "another", *PROMPTS[7:]]), encoding="utf-8")
    jobs = finished.planned()
    file.write_text(before, encoding="utf-8")
    assert jobs["trajectory_store"] == 1
    assert jobs["awaited_trajectories"] == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ('simulation={"checks": [{"step": 3, "keep": 0.5}]}', "simulation.checks.0.step"),
        ('simulation={"checks": [{"step": 1, "keep": 1.5}]}', "simulation.checks.0.keep"),
        ('search={"options": {"beam": {"noise": 2}}}', "method beam: has no option noise"),
        ("smapling=3", "smapling: unknown key; did you mean sampling?"),
        ('model={"family": "fluxx"}', "model.family: fluxx is unknown; did you mean flux?"),
        ('search={"methods": ["bem"]}', "search.methods.0: bem is unknown; did you mean beam?"),
        (
            'simulation={"budgets": [1.0, 20.0]}',
            "simulation.budgets.1: 20 buys",
        ),
        ('model={"family": "ltx"}', "model.family: ltx makes videos, whose steps are not stored"),
        ('sampling={"steps": "many"}', "sampling.steps"),
        ('splits={"val": {"start": 2}}', "splits.val"),
        ('splits={"test": {"stop": 99}}', "prompts.json: has 14 prompts"),
    ],
)
def test_bad_settings_are_refused_before_any_job(
    workflow: Workflow, change: str, complaint: str
) -> None:
    done = workflow.snakemake("--dry-run", "--config", change)
    assert done.returncode != 0
    assert complaint in done.stdout
    assert "Traceback" not in done.stdout


def test_what_a_run_leaves_is_whole(finished: Workflow) -> None:
    run = finished.run
    for split, images in (("train", 2), ("val", 8), ("test", 8)):
        path = run / f"trajectories/{split}.zarr"
        assert verify(path, path.with_suffix("")) == []
        assert open_store(path).seeds.shape[1] == images
    table = read_table(run / "rewards/clip/train.parquet")
    assert len(table) == 6 * 2
    base = RewardTensor.load(run / "tensors/clip/test.base.zarr")
    assert base.values.shape == (5, 8, 4)
    plan = read_plan(run / "plan/clip.json")
    strategies = ["ttsp", "ttsnap", "ttsp@preview", "ttsnap@preview"]
    strategies += ["draft", "draft+ttsp", "draft+ttsnap", "best"]
    assert [one["strategy"] for one in plan["plans"]] == [s for s in strategies for _ in range(3)]
    snap = [one for one in plan["plans"] if one["run_as"].startswith("ttsnap")]
    checked = {check["step"] for one in snap for check in one["checks"]}
    assert checked <= {1, 2}  # where there are checkpoints
    assert LinearPreview.load(run / "preview.safetensors").color.weight.any()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["live"]
    found = pd.read_parquet(run / "search/results.parquet")
    assert set(found.method) == {"best-of-n", "ttsnap", "beam"}
    assert found[["reward", "held_out"]].notna().all(axis=None)


def test_the_report_of_snakemake_has_every_figure(finished: Workflow) -> None:
    page = finished.folder / "report.html"
    done = finished.snakemake("--report", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    for figure in (finished.run / "report").glob("*.png"):
        assert figure.name in text
