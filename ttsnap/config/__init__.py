"""Every setting of a run, with its default, unit and meaning; the one source of all of them.

A section has a file: what it holds, and what it defaults to. ``checks`` says what is impossible
together, ``loading`` reads files, ``generate`` writes ``config/config.yaml`` and
``workflow/schemas/config.schema.json``. A config file may be partial: what it leaves out takes the
default.

Nothing here imports any other part of the library but its errors. Names of methods, families and
kinds of rewards are text, which ``ttsnap.run.check`` compares with what there is.
"""

from ttsnap.config._base import (
    COMMIT,
    FILE,
    FILES,
    GGUF,
    HUB_ID,
    ROOT,
    Accounting,
    Budgets,
    Device,
    Keep,
    Name,
    Pixels,
    Price,
    Settings,
    Split,
    StepIndex,
    Text,
    is_hub_id,
    within,
)
from ttsnap.config.loading import DEFAULT_YAML, explain, load_config, typed
from ttsnap.config.model import Autoencoder, GeneratorLora, Model, Preview
from ttsnap.config.narf import Lora, Narf, Preference
from ttsnap.config.report import Report
from ttsnap.config.rewards import RewardSettings
from ttsnap.config.run import Config
from ttsnap.config.runtime import Runtime
from ttsnap.config.sampling import WORLD, NegToMe, Sampling, Scheduler
from ttsnap.config.search import Search
from ttsnap.config.simulation import CheckSettings, Costs, Draft, Simulation
from ttsnap.config.splits import Splits, SplitSettings

__all__ = [
    "COMMIT",
    "DEFAULT_YAML",
    "FILE",
    "FILES",
    "GGUF",
    "HUB_ID",
    "ROOT",
    "WORLD",
    "Accounting",
    "Autoencoder",
    "Budgets",
    "CheckSettings",
    "Config",
    "Costs",
    "Device",
    "Draft",
    "GeneratorLora",
    "Keep",
    "Lora",
    "Model",
    "Name",
    "Narf",
    "NegToMe",
    "Pixels",
    "Preference",
    "Preview",
    "Price",
    "Report",
    "RewardSettings",
    "Runtime",
    "Sampling",
    "Scheduler",
    "Search",
    "Settings",
    "Simulation",
    "Split",
    "SplitSettings",
    "Splits",
    "StepIndex",
    "Text",
    "explain",
    "is_hub_id",
    "load_config",
    "typed",
    "within",
]
