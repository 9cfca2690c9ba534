"""What a configuration may not say, told before anything is loaded.

``config`` refuses what is wrong whatever methods, families and rewards there are. Here its names
are compared with the registries, and what these cannot do together is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ttsnap.config import WORLD, Config
from ttsnap.diffusion import SAMPLERS, VIDEOS
from ttsnap.errors import UserError, did_you_mean
from ttsnap.rewards import KINDS, is_trainable, require_kind
from ttsnap.schedule import AT_PREVIEWS, CostModel, Schedule
from ttsnap.searching.methods import METHODS
from ttsnap.searching.request import open_options

if TYPE_CHECKING:
    from ttsnap.config import CheckSettings, RewardSettings, Scheduler


def names() -> dict[str, list[str]]:
    """The names that a configuration may use: ``families``, ``methods``, ``kinds`` of rewards."""
    return {"families": list(SAMPLERS), "methods": list(METHODS), "kinds": list(KINDS)}


def check(config: Config, *, workflow: bool = False) -> None:
    """Refuse names that nothing has, and what cannot be combined.

    Args:
        config: as it was read.
        workflow: whether it is to be run from trajectories to report, which can do less than a
            search: it stores what it samples, and finetunes the rewards that it plans with.

    Raises:
        UserError: with one line per problem, which starts with the key's path.
    """
    problems = [*_unknown_names(config)]
    # Of what is unknown nothing else can be said.
    if not problems:
        problems += _bad_options(config)
        if workflow:
            problems += _not_in_a_workflow(config)
    if problems:
        raise UserError("\n".join(problems))


def _unknown_names(config: Config) -> Iterator[str]:
    search, known = config.search, names()
    looks = [f"{one}{AT_PREVIEWS}" for one in METHODS if METHODS[one].prunes]
    looking = [*known["methods"], *looks]
    for place, name, among in [
        ("model.family", config.model.family, [*known["families"], "auto"]),
        *((f"search.methods.{i}", one, looking) for i, one in enumerate(search.methods)),
        *((f"search.options.{one}", one, known["methods"]) for one in search.options),
    ]:
        if name not in among:
            hint = did_you_mean(name, among) or f"; expected one of {', '.join(among)}"
            yield f"{place}: {name} is unknown{hint}"
        elif name in looks and not config.model.linear_preview:
            yield f"{place}: {name} sees previews, and model.preview is not {{kind: linear}}"
    for name, reward in config.rewards.items():
        for place, kind in _kinds(f"rewards.{name}", reward):
            try:
                require_kind(kind, place)
            except UserError as error:
                yield f"{error}{did_you_mean(kind, known['kinds'])}"


def _kinds(place: str, reward: RewardSettings) -> Iterator[tuple[str, str]]:
    """A reward's kind and those that an ensemble sums, each with where it is said."""
    yield f"{place}.kind", reward.kind
    for name, member in reward.members.items():
        if isinstance(member, Mapping) and isinstance(member.get("kind"), str):
            yield f"{place}.options.rewards.{name}.kind", member["kind"]


def _bad_options(config: Config) -> Iterator[str]:
    for name, given in config.search.options.items():
        try:
            options = open_options(METHODS[name], given)
            options.checks(config.sampling.steps)
        except UserError as error:
            yield f"search.options.{name}: {error}"
            continue
        looks = [getattr(options, "step", None) or 0, *(getattr(options, "steps", None) or [])]
        if max(looks) >= config.sampling.steps:
            last = config.sampling.steps - 1
            yield f"search.options.{name}: step {max(looks)} is beyond the last step {last}"


def _not_in_a_workflow(config: Config) -> Iterator[str]:
    if config.model.family in VIDEOS:
        yield (
            f"model.family: {config.model.family} makes videos, whose steps are not stored; "
            "search them live by `ttsnap search`"
        )
        return
    own = config.model.path != Config().model.path
    if own and (unsaid := [name for name in WORLD if name not in config.sampling.model_fields_set]):
        yield (
            f"sampling: lacks {', '.join(unsaid)}; a workflow with a model of your own must be "
            "told, for the defaults are those of the shapes world (`ttsnap search` asks the model)"
        )
    if config.sampling.negtome is not None and _draws_noise(config.sampling.scheduler):
        yield (
            "sampling.negtome: needs a deterministic scheduler, and "
            f"{config.sampling.scheduler.name} adds noise at every step with these options"
        )
    for name in config.pipeline_rewards:
        reward = config.rewards[name]
        try:
            trainable = is_trainable(reward, name)
        except UserError as error:
            yield str(error)
            continue
        if not trainable:
            yield (
                f"rewards.{name}: kind {reward.kind} cannot be finetuned, as all but "
                "search.judge_reward are; search by it with `ttsnap search`"
            )
    checks = config.simulation.checks
    budgets = {"simulation": config.simulation.budgets, "search": config.search.budgets}
    images = {"val": config.splits.val.images, "test": config.splits.test.images}
    yield from dict.fromkeys(
        line
        for name in config.pipeline_rewards
        for line in unserved(budgets, images, checks, _given_prices(config, name))
    )


def _draws_noise(scheduler: Scheduler) -> bool:
    """Whether the settings alone say that a scheduler is stochastic."""
    options = scheduler.options
    return (
        any(word in scheduler.name for word in ("Ancestral", "LCM", "SCM", "SDE"))
        or str(options.get("algorithm_type")).startswith("sde-")
        or any(options.get(name) for name in ("eta", "S_churn", "stochastic_sampling"))
    )


def _given_prices(config: Config, reward: str) -> CostModel | None:
    """What searching by a reward costs, where the configuration itself says so."""
    prices = config.costs.given(reward, preview=False)
    if None in prices.values():
        return None
    return CostModel.of(prices, steps=config.sampling.steps, unit=config.costs.unit)


def unserved(
    budgets: Mapping[str, Sequence[float]],
    images: Mapping[str, int],
    checks: Sequence[CheckSettings] | None,
    costs: CostModel | None,
) -> Iterator[str]:
    """Budgets that buy no image of best-of-N, or more than the images stored of a prompt.

    ``simulation`` replays its budgets on test; plans for these and for those of ``search`` are made
    on val, unless the checks are given.

    Args:
        budgets: ``simulation`` and ``search`` -> ascending ones.
        images: ``val`` and ``test`` -> trajectories per prompt.
        checks: ``simulation.checks``.
        costs: of searching by one reward; None where they are not known yet. Then all that is
            known is that the smallest budget must buy one image, and the others in proportion.

    Yields:
        One line per problem.
    """
    pools = [("simulation", "test")]
    if checks is None:
        pools += [("simulation", "val"), ("search", "val")]
    smallest = min(budgets[section][0] for section, _ in pools)

    def in_proportion(budget: float) -> int:
        return int(budget / smallest * (1 + 1e-9))

    bought: Callable[[float], int] = costs.largest_n if costs else in_proportion
    unit = f" {costs.unit}" if costs else ""
    for section, split in pools:
        least, most = budgets[section][0], budgets[section][-1]
        if costs and bought(least) == 0:
            yield (
                f"{section}.budgets.0: {least:g}{unit} buys no image, of which one costs "
                f"{costs.cost(1):.4g}"
            )
        if (n := bought(most)) > images[split]:
            condition = "" if costs else f" if {smallest:g} buys one"
            yield (
                f"{section}.budgets.{len(budgets[section]) - 1}: {most:g}{unit} buys {n} images "
                f"of a prompt{condition}, but splits.{split}.images is {images[split]}"
            )
    if checks and costs:
        schedule, pool = Schedule.of(checks), images["test"]
        served = [b for b in budgets["simulation"] if 0 < costs.largest_n(b, schedule) <= pool]
        if len(served) < 2:
            yield (
                f"simulation.budgets: {len(served)} of them buy with simulation.checks no more "
                f"than {pool} images of a prompt, which is splits.test.images; expected two or more"
            )
