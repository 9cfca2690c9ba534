from __future__ import annotations

import numpy as np
import pytest
import torch

from ttsnap.diffusion.linear_preview import LinearPreview
from ttsnap.errors import UserError
from ttsnap.narf import data as module
from ttsnap.narf.data import StepData
from ttsnap.prompts import Prompt
from ttsnap.store.trajectories import TrajectoryStore, create_store, open_store

PROMPTS, IMAGES = 5, 10
STEPS = [1, 3, 4, 7]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """Every image is a flat colour: its prompt, number and step index."""
    path = tmp_path_factory.mktemp("store") / "train.zarr"
    create_store(
        path,
        prompts=[Prompt(f"p{i}", f"text {i}", "", i) for i in range(PROMPTS)],
        seeds=np.arange(PROMPTS * IMAGES).reshape(PROMPTS, IMAGES),
        steps=STEPS,
        sigmas=np.zeros(len(STEPS)),
        height=4,
        width=4,
        block=PROMPTS,
        settings={},
        latents=(3, 2, 2),
    )
    place = np.indices((PROMPTS, IMAGES, len(STEPS))).transpose(1, 2, 3, 0)
    place[..., 2] = np.array(STEPS)[place[..., 2]]
    images = np.broadcast_to(place[..., None, None, :], (*place.shape[:3], 4, 4, 3))
    store = open_store(path)
    latents = np.broadcast_to(place[..., None, None], (*place.shape, 2, 2))
    store.write_block(
        0,
        lambda position: images[:, :, position].astype(np.uint8),
        lambda position: latents[:, :, position],
    )
    return store


@pytest.mark.parametrize("in_memory", [2**31, 0])
def test_images_are_previews_of_the_latents(
    store: TrajectoryStore, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", in_memory)
    preview = LinearPreview(3, 2)
    preview.color.weight.copy_(torch.eye(3)[:, :, None, None] / 127.5)
    preview.color.bias.fill_(-1.0)
    seen = StepData.from_store(store, TEACHER, step=4, preview=preview)
    decoded = StepData.from_store(store, TEACHER, step=4)
    for groups in seen.plan(20):
        np.testing.assert_array_equal(seen.read(groups).images, decoded.read(groups).images)


TEACHER = np.arange(PROMPTS * IMAGES, dtype=np.float32).reshape(PROMPTS, IMAGES)


@pytest.mark.parametrize("in_memory", [2**31, 0])
def test_each_image_comes_once_with_its_prompt_and_teacher(
    store: TrajectoryStore, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", in_memory)
    data = StepData.from_store(store, TEACHER, step=4, neighbours=1)
    assert isinstance(data.images, np.ndarray) == bool(in_memory)
    seen = []
    for groups in data.plan(20, np.random.default_rng(0)):
        batch = data.read(groups)
        places = batch.images[:, 0, 0]
        assert len(places) <= 20
        assert (places[:, 0] == batch.prompts).all()
        assert (TEACHER[places[:, 0], places[:, 1]] == batch.teacher).all()
        seen += places.tolist()
    assert len({(prompt, image) for prompt, image, _ in seen}) == len(seen) == TEACHER.size
    assert {step for _, _, step in seen} == {3, 4, 7}


def test_groups_stay_together_and_are_shuffled(store: TrajectoryStore) -> None:
    data = StepData.from_store(store, TEACHER, step=7)
    first, second = (data.plan(16, np.random.default_rng(seed)) for seed in (0, 1))
    assert first != second
    assert first == data.plan(16, np.random.default_rng(0))
    for batch in first:
        for group in batch:
            assert (group.images.start, group.images.stop) in {(0, 8), (8, 10)}
    assert max(group.size for batch in data.plan(3) for group in batch) == 3


def test_without_shuffling_the_order_is_kept(store: TrajectoryStore) -> None:
    data = StepData.from_store(store, TEACHER, step=1, neighbours=5)
    assert data.positions == (0, 1, 2, 3)
    batches = [data.read(groups) for groups in data.plan(16)]
    assert (np.concatenate([batch.teacher for batch in batches]) == TEACHER.ravel()).all()
    assert {int(step) for batch in batches for step in batch.images[:, 0, 0, 2]} == {1}


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_share_the_images_of_a_batch(store: TrajectoryStore, processes: int) -> None:
    data = StepData.from_store(store, TEACHER, step=4)
    for groups in data.plan(3, np.random.default_rng(0)):
        whole = data.read(groups)
        parts = [data.read(groups, process, processes) for process in range(processes)]
        shares = [part.images[: part.share.stop - part.share.start] for part in parts]
        np.testing.assert_array_equal(np.concatenate(shares), whole.images)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all(len(part.images) for part in parts)
        assert all((part.prompts == whole.prompts).all() for part in parts)
        assert all((part.teacher == whole.teacher).all() for part in parts)


def test_a_step_that_is_not_stored_is_refused(store: TrajectoryStore) -> None:
    with pytest.raises(UserError, match="step 2 is not stored"):
        StepData.from_store(store, TEACHER, step=2)


def test_parts_that_do_not_fit_are_refused(store: TrajectoryStore) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        StepData.from_store(store, TEACHER[:, :-1], step=1)
