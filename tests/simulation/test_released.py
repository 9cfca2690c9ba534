from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml

from ttsnap.errors import UserError
from ttsnap.simulation.import_cli import import_rewards
from ttsnap.simulation.released import parse_block_layout, read_matrix, read_rewards
from ttsnap.store.tensors import RewardTensor, read_table

PROMPTS, IMAGES, STEPS = 3, 4, 5


def tensor(seed: int, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(PROMPTS, IMAGES, steps)).astype(np.float32)


def write_folder(folder: Path, values: np.ndarray) -> None:
    folder.mkdir(parents=True)
    prompts, images, steps = values.shape
    for step in range(steps):
        rows = {prompt: values[prompt, :, step].tolist() for prompt in range(prompts)}
        (folder / f"p{prompts}_i{images}_s{step:02d}.yaml").write_text(yaml.safe_dump(rows))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Two rewards, as released; hps has finetuned values at the first steps, imr has none."""
    folder = tmp_path / "values"
    write_folder(folder / "flux_hps_val_base", tensor(0))
    write_folder(folder / "flux_hps_val_naft", tensor(1, STEPS - 2))
    write_folder(folder / "flux_imr_val_base", tensor(2))
    return folder


def run(*arguments: object) -> None:
    app = typer.Typer()
    app.command()(import_rewards)
    app([*map(str, arguments)], standalone_mode=False)


def test_released_folders_become_an_npz(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = released.parent / "out/rewards.npz"
    run(released, "--out", out)
    with np.load(out) as arrays:
        assert sorted(arrays) == ["hps_base", "hps_naft", "imr_base", "imr_naft"]
        np.testing.assert_array_equal(arrays["hps_base"], tensor(0))
        np.testing.assert_array_equal(arrays["hps_naft"][:, :, :3], tensor(1, 3))
        assert np.isnan(arrays["hps_naft"][:, :, 3:]).all()
        assert np.isnan(arrays["imr_naft"]).all()
        assert all(array.dtype == np.float32 for array in arrays.values())
    printed = capsys.readouterr()
    assert "hps: 3 prompts x 4 images x 5 steps, finetuned at 0-2, in" in printed.out
    assert "imr: 3 prompts x 4 images x 5 steps, finetuned at none, in" in printed.out
    assert "read rewards 13/13 done" in printed.err


def test_what_is_written_is_read_back(released: Path) -> None:
    first, again = released.parent / "a.npz", released.parent / "b.npz"
    run(released, "--out", first)
    run(first, "--out", again)
    with np.load(first) as one, np.load(again) as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


def test_single_folders_and_arrays_beside_each_other(tmp_path: Path) -> None:
    write_folder(tmp_path / "hps_base", tensor(0))
    np.save(tmp_path / "hps_naft.npy", tensor(1).astype(np.float64))
    read = read_rewards([tmp_path / "hps_base", tmp_path / "hps_naft.npy"])["hps"]
    np.testing.assert_array_equal(read.finetuned, tensor(1))
    assert read.split is None
    assert read_rewards([tmp_path])["hps"].finetuned_steps == [0, 1, 2, 3, 4]


def test_a_missing_finetuned_step_between_others_has_none(released: Path) -> None:
    (released / "flux_hps_val_naft/p3_i4_s01.yaml").unlink()
    assert read_rewards([released])["hps"].finetuned_steps == [0, 2]


def test_tensor_stores(released: Path) -> None:
    out = released.parent / "tensors"
    run(released, "--out", out)
    base, finetuned = (
        RewardTensor.load(out / f"hps/val.{kind}.zarr") for kind in ("base", "finetuned")
    )
    np.testing.assert_array_equal(base.values, tensor(0))
    np.testing.assert_array_equal(finetuned.values[:, :, :3], tensor(1, 3))
    assert base.steps == list(range(STEPS))
    assert base.prompt_ids == ["p0000", "p0001", "p0002"]


def test_ground_truth_becomes_a_table(tmp_path: Path) -> None:
    values = tensor(0)[:, :, 0]
    rows = {
        f"p{prompt:04d}": {
            f"id{image:03d}": float(values[prompt, image]) for image in range(IMAGES)
        }
        for prompt in range(PROMPTS)
    }
    source, out = tmp_path / "imr_gt.yaml", tmp_path / "imr.parquet"
    source.write_text(yaml.safe_dump(rows))
    run(source, "--out", out)
    table = read_table(out)
    np.testing.assert_array_equal(table.reward, values.ravel())
    assert table.prompt_id.tolist()[::IMAGES] == ["p0000", "p0001", "p0002"]
    assert table.image_id.tolist() == [0, 1, 2, 3] * PROMPTS


@pytest.mark.parametrize(
    "text",
    [
        "0: [0.5, -1.0e-05, 2]\n1: [3, 4, 5.25]\n",
        "{0: [0.5, -1.0e-05, 2], 1: [3, 4, 5.25]}",
        "1:\n  - 3\n  - 4\n  - 5.25\n0:\n  - 0.5\n  - -1e-05\n  - 2",
        "# by hand\n0: [0.5, -1e-05, 2]\n1:\n- 3\n- 4\n- 5.25\n",
        "p0001: {id001: 4, id000: 3, id002: 5.25}\np0000: {id000: 0.5, id001: -1e-05, id002: 2}",
        "p0000:\n  id000: 0.5\n  id001: -1.0e-05\n  id002: 2\np0001:\n  id000: 3\n  id001: 4\n"
        "  id002: 5.25\n",
    ],
)
def test_all_ways_to_write_the_same_rewards(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    expected = np.array([[0.5, -1e-5, 2], [3, 4, 5.25]], np.float32)
    np.testing.assert_array_equal(read_matrix(tmp_path / "a.yaml"), expected)


def test_block_layout_is_read_without_a_yaml_parser() -> None:
    values = np.random.default_rng(0).normal(size=(60, 200)) * 10.0 ** np.arange(-100, 100)
    rows = {prompt: row.tolist() for prompt, row in enumerate(values)}
    data = yaml.dump(rows, Dumper=yaml.CSafeDumper).encode()

    def seconds(function: Callable[[], object]) -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    assert parse_block_layout(data) == {str(prompt): row for prompt, row in rows.items()}
    fast = min(seconds(lambda: parse_block_layout(data)) for _ in range(3))
    assert fast * 3 < seconds(lambda: yaml.load(data, Loader=yaml.CSafeLoader))


def break_file(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text()))

    return apply


def drop_last_reward(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[0] + "\n"


def swap_first(value: str) -> Callable[[str], str]:
    return lambda text: "0:\n- " + value + "\n" + text.split("\n", 2)[2]


BASE, NAFT = "flux_hps_val_base/p3_i4_s01.yaml", "flux_hps_val_naft/p3_i4_s01.yaml"


@pytest.mark.parametrize(
    ("damage", "place", "expected"),
    [
        (break_file(BASE, drop_last_reward), BASE, "prompt 2 has 3 rewards, prompt 0 has 4"),
        (break_file(BASE, swap_first(".nan")), BASE, "prompt 0, image 0: nan is not a finite"),
        (break_file(NAFT, swap_first("-.inf")), NAFT, "prompt 0, image 0: -inf is not a finite"),
        (break_file(NAFT, swap_first("1e99")), NAFT, "prompt 0, image 0: 1e+99 is not a finite"),
        (break_file(BASE, swap_first("high")), BASE, "expected a number, found 'high'"),
        (break_file(BASE, swap_first("[1]")), BASE, "expected a number, found [1]"),
        (break_file(BASE, swap_first("[1")), BASE + ":6:2", "not YAML: "),
        (break_file(BASE, lambda _: "0: \x00"), BASE, "not YAML: "),
        (break_file(BASE, lambda _: ""), BASE, "expected {prompt: [rewards]}, found nothing"),
        (break_file(BASE, lambda _: "- 1"), BASE, "found a list"),
        (break_file(BASE, lambda _: "0: 1"), BASE, "prompt 0: expected a list of rewards, found 1"),
        (break_file(BASE, lambda s: s.replace("1:\n", "7:\n")), BASE, "prompt 1 is missing"),
        (
            break_file(BASE, lambda s: s.replace("1:\n", "x:\n")),
            BASE,
            "prompt x: expected a",
        ),
        (
            break_file(BASE, lambda s: s[: s.index("2:\n")]),
            BASE,
            "2 prompts x 4 images, but its name says 3 prompts x 4 images",
        ),
        (
            lambda folder: (folder / BASE).rename((folder / BASE).with_name("p3_i5_s01.yaml")),
            "flux_hps_val_base/p3_i5_s01.yaml",
            "but its name says",
        ),
        (
            lambda folder: (folder / BASE).unlink(),
            "flux_hps_val_base",
            "hps_base has no rewards at step 1",
        ),
        (
            lambda folder: (folder / NAFT).rename((folder / NAFT).with_name("p3_i4_s09.yaml")),
            "flux_hps_val_naft",
            "hps_naft has 3 prompts x 4 images x 10 steps, but hps_base has 3 prompts x 4 images",
        ),
        (
            lambda folder: (folder / NAFT).rename((folder / NAFT).with_name("step1.yaml")),
            "flux_hps_val_naft/step1.yaml",
            "cannot tell the step",
        ),
        (
            lambda folder: (folder / "flux_hps_val_base").rename(folder / "gone"),
            "flux_hps_val_naft",
            "hps_base is missing",
        ),
        (
            lambda folder: write_folder(folder / "sdxl_hps_val_base", tensor(3)),
            "sdxl_hps_val_base",
            "hps_base is in",
        ),
        (
            lambda folder: (folder / NAFT).write_bytes(b"0: \xff"),
            NAFT,
            "not YAML",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    released: Path, damage: Callable[[Path], object], place: str, expected: str
) -> None:
    damage(released)
    with pytest.raises(UserError) as caught:
        read_rewards([released])
    message = str(caught.value)
    assert message.startswith(f"{released / place}:")
    assert expected in message
    assert "\n" not in message


def test_folders_of_different_sizes(released: Path) -> None:
    for path in (released / "flux_hps_val_naft").iterdir():
        path.unlink()
    (released / "flux_hps_val_naft/s00.yaml").write_text("0: [1, 2]\n")
    with pytest.raises(UserError, match=r"s00.yaml: 1 prompts x 2 images, but .* has 3 prompts"):
        read_rewards([released])


def holes(values: np.ndarray, *places: tuple[int, int, int]) -> np.ndarray:
    values = values.copy()
    for place in places:
        values[place] = np.nan
    return values


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"hps_base": tensor(0)[0]}, "hps_base has shape (4, 5) and type float32"),
        ({"hps_base": tensor(0) > 0}, "type bool; expected numbers of shape (prompts, images,"),
        ({"hps_base": tensor(0)[:, :0]}, "hps_base has shape (3, 0, 5)"),
        ({"hps": tensor(0)}, "array hps: cannot tell the reward from this name"),
        ({"hps_naft": tensor(0)}, "hps_base is missing"),
        (
            {"hps_base": tensor(0), "hps_naft": tensor(0)[:2]},
            "hps_naft has 2 prompts x 4 images x 5 steps, but hps_base has 3 prompts x 4 images",
        ),
        (
            {"hps_base": holes(tensor(0), (1, 2, 3))},
            "hps_base: prompt 1, image 2, step 3: nan is not a finite reward",
        ),
        (
            {"hps_base": tensor(0), "hps_naft": holes(tensor(0), (1, 2, 3))},
            "hps_naft: prompt 1, image 2, step 3: nan is not a finite reward",
        ),
        ({"hps_base": np.full((1, 1, 1), 1e300)}, "inf is not a finite reward"),
        ({"hps_base": np.array([[[None]]])}, "not an .npz of numbers"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as caught:
        read_rewards([tmp_path / "a.npz"])
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["a.npz", "hps_base.npy", "a.txt"])
def test_files_that_are_no_arrays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("nothing")
    with pytest.raises(UserError, match=name):
        read_rewards([tmp_path / name])


def test_sources_without_rewards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rewards here; expected folders such as"):
        read_rewards([tmp_path])
    with pytest.raises(UserError, match="no such file or folder"):
        read_rewards([tmp_path / "absent"])
    with pytest.raises(UserError, match="single ground-truth YAML"):
        run(tmp_path, "--out", tmp_path / "a.parquet")


@pytest.mark.skipif("TTSNAP_SHARED" not in os.environ, reason="TTSNAP_SHARED is not set")
def test_the_released_hpsv2_tensors(tmp_path: Path) -> None:
    data = Path(os.environ["TTSNAP_SHARED"]) / "data"
    start = time.process_time()
    rewards = read_rewards([data / "ttsnap-values"])
    assert time.process_time() - start < 10
    assert list(rewards) == ["hps"]
    assert rewards["hps"].finetuned_steps == list(range(15))
    with np.load(data / "flux_reward_tensors.npz") as expected:
        np.testing.assert_array_equal(rewards["hps"].base, expected["hps_base"])
        np.testing.assert_array_equal(rewards["hps"].finetuned, expected["hps_naft"])
        truth = read_matrix(data / "imr_gt_flux_val_i88.yaml")
        # Scored anew there, in another precision.
        np.testing.assert_allclose(truth, expected["imr_base"][:, :88, -1], atol=1e-3)
