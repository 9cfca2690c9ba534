"""One module per rule of the workflow: parse, call the library, write the result.

Each is run as ``python -m ttsnap.stages.<stage>``. ``--settings`` is the JSON of exactly those
settings the stage reads, which is also what Snakemake tracks.
"""

from __future__ import annotations

import inspect
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ttsnap.config import Runtime, Settings
from ttsnap.errors import UserError, explain
from ttsnap.progress import quiet_libraries
from ttsnap.store.files import Place, place

if TYPE_CHECKING:
    from ttsnap.diffusion.linear_preview import LinearPreview
    from ttsnap.diffusion.sampler import Sampler

AnySettings = TypeVar("AnySettings", bound=Settings)


def json_option(kind: type[AnySettings]) -> typer.models.OptionInfo:
    """An option whose value is the JSON of ``kind``."""
    return typer.Option(parser=kind.model_validate_json, metavar="JSON")


RuntimeOption = Annotated[
    Runtime,
    typer.Option(
        parser=Runtime.model_validate_json,
        metavar="JSON",
        envvar="TTSNAP_RUNTIME",
        help="Site settings, which change no result.",
    ),
]


StoreOption = Annotated[
    Place, typer.Option(parser=place, metavar="PLACE", help="Trajectory store, a folder or URL.")
]
RewardName = Annotated[str, typer.Option(help="Name of the reward.")]
ModelReceipt = Annotated[Path, typer.Option(help="Receipt of the model stage.")]
CostReceipt = Annotated[Path, typer.Option(help="Receipt of the reward cost stage.")]
BaseReceipt = Annotated[Path, typer.Option(help="Receipt of the base tensor.")]
FinetunedReceipt = Annotated[Path, typer.Option(help="Receipt of the finetuned tensor.")]
BaseReceipts = Annotated[
    list[Path], typer.Option(help="Receipts of base tensors: of decodes, then of previews if any.")
]
FinetunedReceipts = Annotated[
    list[Path], typer.Option(help="Receipts of finetuned tensors, likewise.")
]
DraftReceipts = Annotated[
    list[Path] | None,
    typer.Option(help="Receipts of drafts' rewards, block after block; none: without drafts."),
]
PreviewReceipt = Annotated[
    Path | None,
    typer.Option(help="Receipt of the preview that estimates are seen by; none: as decoded."),
]


def load_preview(receipt: Path | None, sampler: Sampler | None = None) -> LinearPreview | None:
    """The map that lies beside the receipt of a preview, for a sampler if one is given."""
    if receipt is None:
        return None
    from ttsnap.diffusion.linear_preview import LinearPreview

    return LinearPreview.load(receipt.with_suffix(".safetensors"), sampler)


def _told(main: Callable[..., None]) -> Callable[..., None]:
    """``main`` with a first and a last line in the log: which stage, where, how long."""
    stage = Path(inspect.getfile(main)).stem

    @wraps(main)
    def told(**options: object) -> None:
        began = time.perf_counter()
        logging.info("%s, on %s", stage, platform.node())
        main(**options)
        logging.info("%s: done in %.1f s", stage, time.perf_counter() - began)

    return told


def run(main: Callable[..., None]) -> None:
    """Run a stage's ``main`` on the command line; what the user can put right is one line."""
    # Of processes that train together the first one reports.
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    quiet_libraries()
    # typer reads annotations at run time, where they are strings.
    main.__annotations__ = inspect.get_annotations(main, eval_str=True)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_told(main))
    try:
        app()
    except (UserError, OSError) as error:
        if (line := explain(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
