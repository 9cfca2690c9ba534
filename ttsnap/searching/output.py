"""What a search leaves: pictures, records of its rounds, the trace of all events, a table's row.

The trace is written last: where it ends with a winner, the rest is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import ttsnap
from ttsnap.errors import UserError
from ttsnap.searching.record import record_of, save_picture
from ttsnap.store.files import atomic
from ttsnap.strict_json import dumps

if TYPE_CHECKING:
    from ttsnap.searching.result import SearchResult

SETTINGS, TRACE = "config.json", "trace.jsonl"


def save(
    result: SearchResult,
    folder: str | Path,
    *,
    contact: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write what was found and how.

    ``best.png`` with what brings it back in the PNG's text, ``finals/`` if they were kept,
    ``contact.png``, ``rounds/round_N.json`` with the best image of each, and ``trace.jsonl``.
    Beside the PNG of a video, which is its middle frame, is the MP4.

    Args:
        result: of any method.
        folder: made if it is not there; what an earlier search left in it is replaced.
        contact: drawing the contact sheet takes up to a second, so that it can be left out.
        settings: JSON types for the first line of the trace, beside what ``result`` says itself.
    """
    from ttsnap.searching.contact_sheet import contact_sheet

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (TRACE, "rounds/round_*.*", "finals/candidate_*.*"):
        for stale in folder.glob(pattern):
            stale.unlink()

    def picture(name: str, index: int, image: np.ndarray) -> None:
        save_picture(folder / name, image, record_of(result, index), result.frame_rate)

    picture("best.png", result.winner, result.image)
    for index, image in result.finals.items():
        picture(f"finals/candidate_{index:04d}.png", index, image)
    if contact:
        contact_sheet(result, folder / "contact.png")
    for one in result.rounds:
        one.best_img_path = f"rounds/round_{one.search_round}.png"
        picture(one.best_img_path, one.best, one.image)
        record = {
            "prompt": result.prompt,
            "search_round": one.search_round,
            "num_noises": one.num_noises,
            "best_noise_seed": one.best_noise_seed,
            "best_score": one.best_score,
            "choice_of_metric": one.choice_of_metric,
            "best_img_path": one.best_img_path,
        }
        path = folder / f"rounds/round_{one.search_round}.json"
        path.write_text(dumps(record, indent=2) + "\n", encoding="utf-8")
    _write_trace(folder, events(result, settings or {}))


def save_refusal(folder: Path, prompt: str, reason: str) -> None:
    """Write, in place of what a search leaves, why there is no image of a prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_trace(folder, [{"event": "refused", "prompt": prompt, "reason": reason}])


def _write_trace(folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with atomic(folder / TRACE) as file:
        file.write("".join(f"{dumps(line)}\n" for line in lines).encode())


def events(result: SearchResult, settings: Mapping[str, Any] = {}) -> Iterator[dict[str, Any]]:
    """The lines of the trace: the settings, every start, look and prune by step, the winner."""
    yield {
        "event": "search",
        "version": ttsnap.__version__,
        "prompt": result.prompt,
        "model": result.model,
        "method": result.method,
        "options": result.options,
        "rewards": list(result.rewards),
        "budget": result.budget,
        "unit": result.unit,
        **settings,
    }
    for index, candidate in enumerate(result.candidates):
        yield {
            "event": "start",
            "candidate": index,
            "seed": candidate.seed,
            "parent": candidate.parent,
            "origin": candidate.origin,
            "noises": candidate.noises,
            **({} if candidate.reference is None else {"reference": candidate.reference}),
        }
    for step in sorted({step for candidate in result.candidates for step in candidate.scores}):
        here = [(i, one) for i, one in enumerate(result.candidates) if step in one.scores]
        for index, candidate in here:
            look = {
                "event": "look",
                "candidate": index,
                "step": step,
                "score": candidate.scores[step],
            }
            if candidate.rewards and step == max(candidate.scores):
                look["rewards"] = candidate.rewards
                if candidate.weight is not None:
                    look["weight"] = candidate.weight
            yield look
        for index, candidate in here:
            if candidate.pruned_at == step:
                yield {"event": "prune", "candidate": index, "step": step}
    winner = result.candidates[result.winner]
    yield {
        "event": "winner",
        "candidate": result.winner,
        "seed": winner.seed,
        "score": result.score,
        "rewards": winner.rewards,
        "planned": result.planned,
        "spent": result.spent,
        "nfe": result.nfe,
        "decodes": result.decodes,
        "scored": result.scored,
        "seconds": result.seconds,
        "interrupted": result.interrupted,
    }


def is_finished(folder: Path) -> bool:
    """Whether a search was saved here that nobody interrupted, or that it was refused."""
    last = _last_event(folder)
    return last is not None and not last.get("interrupted", False)


def is_refused(folder: Path) -> bool:
    """Whether the prompt of this folder could not be scored."""
    last = _last_event(folder)
    return last is not None and last["event"] == "refused"


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """The events of a search that was saved."""
    text = (folder / TRACE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def _last_event(folder: Path) -> dict[str, Any] | None:
    return read_trace(folder)[-1] if (folder / TRACE).exists() else None


def check_settings(folder: Path, settings: Mapping[str, Any], *, partly: bool = False) -> None:
    """Refuse a folder whose ``config.json`` says that it holds a search with other settings.

    Args:
        folder: may not be there yet.
        settings: as :func:`write_settings` is given.
        partly: whether ``settings`` are only those that are known before a model is loaded.

    Raises:
        UserError: naming one that differs, or what is in the way of a folder.
    """
    for place in (folder, *folder.parents):
        if place.is_dir():
            if not os.access(place, os.W_OK):
                raise UserError(f"{folder}: {place} is not writable")
            break
        if place.exists():
            raise UserError(f"{folder}: cannot be made, {place} is a file")
    path = folder / SETTINGS
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        raise UserError(f"{path}: not what `ttsnap search` wrote; choose another --out") from None
    wanted = json.loads(dumps(settings))
    if partly:
        there = {key: value for key, value in there.items() if key in wanted}
    if there != wanted:
        key = next(key for key in {**wanted, **there} if there.get(key) != wanted.get(key))
        raise UserError(
            f"{folder}: holds a search with another {key} "
            f"({dumps(there.get(key))}, not {dumps(wanted.get(key))}); choose another --out"
        )


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the ``config.json`` that :func:`check_settings` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(dumps(settings, indent=2) + "\n", encoding="utf-8")


def row(result: SearchResult, prompt_id: str, **judged: float | None) -> dict[str, Any]:
    """A search as a row of ``search/results.parquet``, with what others say of its image."""
    return {
        "method": result.method,
        "budget": result.budget,
        "prompt_id": prompt_id,
        "reward": result.score,
        **judged,
        "diversity": diversity(result),
        "spent": result.spent,
        "unit": result.unit,
        "nfe": result.nfe,
        "n": len(result.candidates),
        "seed": result.seed,
        "seconds": result.seconds,
    }


def diversity(result: SearchResult) -> float | None:
    """How varied the finished images are; None of fewer than two.

    Root mean square difference of two of them, averaged over all pairs, at 32 x 32 pixels with
    values in [0, 1]: coarse enough to compare what is seen where, not its grain.
    """
    from scipy.spatial.distance import pdist

    finals = [one.thumbnails[max(one.scores)] for one in result.candidates if one.rewards]
    if len(finals) < 2:
        return None
    small = [
        np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX), np.float32)
        for image in finals
    ]
    flat = np.stack(small).reshape(len(small), -1) / 255
    return float(pdist(flat).mean() / flat.shape[1] ** 0.5)
