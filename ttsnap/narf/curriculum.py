"""One step of the curriculum of arXiv 2511.22242.

The reward on final images teaches a student that sees the Tweedie estimates of an earlier step.
Students are trained from the cleanest step towards noise, each from the weights of the one before.

Several processes of `accelerate` share each batch. Its loss couples the images of a prompt, so all
scores are gathered: each process takes the loss of the whole batch, with the gradient of its own
scores alone. The sum of the gradients is that of one process.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from ttsnap.errors import UserError
from ttsnap.narf.loss import preference_loss, squared_error
from ttsnap.progress import track
from ttsnap.rewards.checkpoint import WEIGHTS, load_checkpoint, wrapping
from ttsnap.stats import kendall_tau_rows
from ttsnap.store.files import atomic_folder

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator
    from peft import PeftModel

    from ttsnap.config import Narf
    from ttsnap.narf.data import StepData, TrainingBatch
    from ttsnap.rewards.base import TrainableReward

T = TypeVar("T")

HISTORY = "history.csv"
HISTORY_COLUMNS = ("iteration", "epoch", "loss", "val_kendall_tau", "val_mse")
FINAL_RATE = 0.5  # share of the learning rate that is left at the end of a step
VALIDATION_BATCH = 256


def finetune_step(
    reward: TrainableReward,
    data: StepData,
    settings: Narf,
    *,
    start: Path | None,
    out: Path,
    seed: int,
    val_data: StepData,
    accelerator: Accelerator | None = None,
    at_once: int | None = None,
) -> pd.DataFrame:
    """Train the student of one step; validation decides after which epoch it is kept.

    Before the first epoch and after each one the student is judged by its mean Kendall τ to the
    teacher within the prompts of ``val_data``. The best is written to ``out``, with the curves in
    ``history.csv``; where no epoch helps, that is the one it started from. Dropout is off. On a
    CPU, with the same number of threads, the same arguments give the same bits.

    Args:
        reward: the untouched reward. It is trained in place and is the kept student afterwards.
        data: what to learn from.
        settings: of the training.
        start: checkpoint of the next cleaner step; none starts from the untouched reward.
        out: folder to write; one that is there is replaced.
        seed: of the adapter's initial weights and of the order of the data.
        val_data: what to validate on, at the step alone.
        accelerator: of the processes that train together, all with the same arguments; the main
            one alone validates, reports and writes. None is one process.
        at_once: images in a process's forward pass. Where its share of a batch is larger, it is
            scored in parts, and each again for its gradient: a third more compute, less memory.

    Returns:
        One row for the start and one for each optimiser step: iteration, epoch, loss (squared
        error over the teacher's variance, plus the weighted preference loss), and where it was
        validated val_kendall_tau, val_mse (reward units, squared); kept is true where the weights
        that are kept were reached.

    Raises:
        UserError: if no layer matches ``settings.lora.targets``, or ``start`` is no checkpoint.
        FloatingPointError: if the loss is not finite.
    """
    import pandas as pd
    from accelerate import Accelerator
    from accelerate.utils import broadcast

    accelerator = accelerator or Accelerator()
    is_main, processes = accelerator.is_main_process, accelerator.num_processes
    rng = np.random.default_rng(seed)
    epochs = [data.plan(settings.batch_size, rng) for _ in range(settings.epochs)]
    ends = np.cumsum([len(epoch) for epoch in epochs]).tolist()
    read = partial(data.read, process=accelerator.process_index, processes=processes)
    batches = _ahead(map(read, (batch for epoch in epochs for batch in epoch)))
    if is_main:
        batches = track(batches, f"finetune {out.name}", ends[-1])
    loss_of = _loss(reward, data, settings, accelerator, at_once)

    with _reproducible(seed):
        adapted = _adapt(reward, settings, start)
        weights = [weight for weight in reward.module.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            weights,
            lr=settings.learning_rate,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        rate = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, FINAL_RATE, ends[-1])
        best: dict[str, Any] = {"iteration": 0, "epoch": 0}
        if is_main:
            best |= validate(reward, val_data)
        history = [best]
        kept = [weight.detach().clone() for weight in weights]
        for done, batch in enumerate(batches, start=1):
            loss = loss_of(batch)
            if not loss.isfinite():
                raise FloatingPointError(f"{out}: loss {loss.item()} in iteration {done}")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if processes > 1:
                _sum_gradients(weights, accelerator)
            torch.nn.utils.clip_grad_norm_(weights, settings.clip_norm)
            optimizer.step()
            rate.step()
            epoch = bisect_left(ends, done) + 1
            history.append({"iteration": done, "epoch": epoch, "loss": loss.item()})
            if done not in ends:
                continue
            if is_main:
                history[-1] |= validate(reward, val_data)
                if history[-1]["val_kendall_tau"] > best["val_kendall_tau"]:
                    best, kept = history[-1], [weight.detach().clone() for weight in weights]
            waited = torch.tensor(epoch - best["epoch"], device=accelerator.device)
            if broadcast(waited) >= settings.patience and done < ends[-1]:
                break
        for weight, value in zip(weights, kept, strict=True):
            weight.data.copy_(broadcast(value))

    table = pd.DataFrame(history, columns=[*HISTORY_COLUMNS])
    table["kept"] = table["iteration"] == best["iteration"]
    if is_main:
        with atomic_folder(out) as folder:
            folder.mkdir()
            _save(reward, adapted, folder)
            table.to_csv(folder / HISTORY, index=False)
    if adapted is not None:
        adapted.merge_and_unload()
    reward.module.requires_grad_(False)
    return table


def validate(reward: TrainableReward, data: StepData) -> dict[str, float]:
    """Mean Kendall τ to the teacher within prompts (0 where a prompt gives none), and mean squared
    error, of images at the first of the steps of ``data``.
    """
    texts = reward.encode_texts(data.texts)
    scores = []
    with torch.no_grad():
        for batch in map(data.read, data.plan(VALIDATION_BATCH)):
            pixels = reward.pixel_values(batch.images)
            scores.append(reward.forward(pixels, texts[batch.prompts]).cpu().numpy())
    student = np.concatenate(scores).reshape(data.teacher.shape)
    tau = np.nan_to_num(kendall_tau_rows(student, data.teacher))
    error = np.square(student - data.teacher, dtype=np.float64)
    return {"val_kendall_tau": float(tau.mean()), "val_mse": float(error.mean())}


def _loss(
    reward: TrainableReward,
    data: StepData,
    settings: Narf,
    accelerator: Accelerator,
    at_once: int | None,
) -> Callable[[TrainingBatch], torch.Tensor]:
    """The loss of a whole batch, with the gradient of the share of this process; in units of the
    teacher's standard deviation over ``data``, so that rates and weights mean the same for rewards
    of any scale.
    """
    texts = reward.encode_texts(data.texts)
    unit = float(data.teacher.std())
    preference = settings.preference

    def loss_of(batch: TrainingBatch) -> torch.Tensor:
        pixels = reward.pixel_values(batch.images)
        prompts_read = batch.prompts[batch.share.start :][: len(pixels)]
        student = _forward(reward, pixels, texts[prompts_read], at_once) / unit
        if accelerator.num_processes > 1:
            student = _with_others(student, batch, accelerator)
        teacher = torch.from_numpy(batch.teacher).to(student) / unit
        loss = squared_error(student, teacher)
        if preference.weight:
            prompts = torch.from_numpy(batch.prompts).to(student.device)
            pairs = preference_loss(student, teacher, prompts, preference.temperature)
            loss = loss + preference.weight * pairs
        return loss

    return loss_of


def _forward(
    reward: TrainableReward, pixels: torch.Tensor, texts: torch.Tensor, at_once: int | None
) -> torch.Tensor:
    """Scores (b,) of b images. Of several parts none keeps what its gradient needs: backward
    computes it again part by part, which accumulates the gradients of the weights.
    """
    if at_once is None or len(pixels) <= at_once:
        return reward.forward(pixels, texts)
    parts = zip(pixels.split(at_once), texts.split(at_once), strict=True)
    return torch.cat([checkpoint(reward.forward, *part, use_reentrant=False) for part in parts])


def _with_others(
    student: torch.Tensor, batch: TrainingBatch, accelerator: Accelerator
) -> torch.Tensor:
    """All scores (B,) of a batch from those of each process; others' carry no gradient."""
    start, stop = batch.share.start, batch.share.stop
    own = student[: stop - start]
    scores = student.new_zeros(len(batch.teacher))
    scores[batch.share] = own.detach()
    scores = accelerator.reduce(scores, "sum")
    return torch.cat([scores[:start], own, scores[stop:]])


def _sum_gradients(weights: list[torch.nn.Parameter], accelerator: Accelerator) -> None:
    for weight in weights:
        if weight.grad is not None:
            weight.grad = accelerator.reduce(weight.grad, "sum")


def _adapt(reward: TrainableReward, settings: Narf, start: Path | None) -> PeftModel | None:
    """Make what is trained require gradients, and nothing else; LoRA returns peft's wrapper."""
    from peft import LoraConfig, PeftModel, get_peft_model

    module: Any = reward.module
    module.requires_grad_(False)
    if settings.method == "full":
        if start is not None:
            load_checkpoint(module, start)
        for name, weight in module.named_parameters():
            weight.requires_grad_(re.match(rf"({reward.tower})\.", name) is not None)
        return None
    if start is not None:
        with wrapping():
            return PeftModel.from_pretrained(module, start, is_trainable=True)
    targets = "|".join(map(re.escape, settings.lora.targets))
    adapter = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        target_modules=rf"({reward.tower})\.(.*\.)?({targets})",
    )
    try:
        with wrapping():
            return get_peft_model(module, adapter)
    except ValueError as error:
        raise UserError(
            f"narf.lora.targets: no layer of {reward.name} to adapt ({error})"
        ) from None


def _save(reward: TrainableReward, adapted: PeftModel | None, folder: Path) -> None:
    from safetensors.torch import save_model

    if adapted is None:
        save_model(reward.module, str(folder / WEIGHTS))
    else:
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink()  # peft's template of a model card, to be filled in


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch and keep to deterministic kernels, where there are any, for the time being."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each prepared in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item
