"""What to search with, from what a user says and, where that is little, from model and run.

The command and any other face of the search ask here, so that they decide alike: what is said
holds; a model of one's own says the rest of itself; a run's plan and checkpoints serve the model
that they were made for and no other; and where there is no plan, one that ships does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ttsnap import hub
from ttsnap.config import (
    WORLD,
    Config,
    Costs,
    Model,
    RewardSettings,
    Runtime,
    Sampling,
    Settings,
    explain,
    is_hub_id,
)
from ttsnap.config import load_config as validated
from ttsnap.errors import UserError
from ttsnap.run.check import check
from ttsnap.run.trained import OWN, PREVIEW, checkpoints, difference, made_by, made_for
from ttsnap.schedule import DRAFT, CostModel, Schedule, read_plan, split_look
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods import DEFAULT, METHODS, Method, MethodOptions
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.request import (
    PICKSCORE,
    check_options,
    check_plan,
    check_reward,
    check_scheduler,
    method_named,
    method_options,
    open_options,
    planned,
    read_reward,
    read_scheduler,
    shipped_for,
    usual_budget,
)

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler
    from ttsnap.rewards.verifiers import SharedReward
    from ttsnap.searching.searcher import Searcher

WORKFLOW_ONLY = {"splits", "narf", "simulation", "report"}
"""Sections of a configuration that a search does not read."""

OF_A_MODEL = {"denoise", "decode", "preview"}
"""Prices that hold for one model, sampled in one way."""

BATCH = 8
"""Candidates at once of a model whose configuration does not say."""


@dataclass(frozen=True)
class Request:
    """A search as far as it is known before a model is loaded, and checked.

    Attributes:
        model: the generator.
        sampling: all settings, or those that differ from what the pipeline does by itself.
        asked_scheduler: whether the scheduler was asked for.
        rewards: by their names, in order.
        method: of the search.
        options: of the method, as given; a schedule may still be missing.
        budget: None is ``WHOLE_IMAGES`` of them, once their price is known.
        costs: prices that are known.
        runtime: device, batches and the like.
        plan: of the run or given, if there is one for the method.
        run: folder whose checkpoints verify; None where the untouched rewards do.
        folder: where searches like this are kept.
        narf_steps: those that the run has checkpoints for.
    """

    model: Model
    sampling: Sampling | Mapping[str, Any]
    asked_scheduler: bool
    rewards: dict[str, RewardSettings]
    method: Method
    options: dict[str, Any]
    budget: Budget | None
    costs: Costs
    runtime: Runtime
    plan: dict[str, Any] | None
    run: Path | None
    folder: Path
    narf_steps: Sequence[int] = ()


@dataclass(frozen=True)
class Loaded:
    """A search with its models.

    Attributes:
        searcher: ready to run.
        model: the generator, with family and precision decided.
        costs: prices in the unit of the budget.
        budget: of a prompt.
        options: of the method.
        folders: of the checkpoints that verify, by step and reward.
        look: how checks see estimates, ``decode`` or ``preview``.
        about: what a model of one's own has decided, in a line; empty of the embedded world.
        notice: what the user should know of the schedule; empty if it is their own.
    """

    searcher: Searcher
    model: Model
    costs: CostModel
    budget: Budget
    options: MethodOptions
    folders: dict[int, dict[str, Path]] = field(default_factory=dict)
    look: str = "decode"
    about: str = ""
    notice: str = ""


def request_of(
    config: Config | None,
    *,
    model: str | None,
    loras: Sequence[str],
    components: str | None,
    reward: str | None,
    sampling: Mapping[str, Any],
    runtime: Mapping[str, Any],
    dtype: str | None,
    quantization: str | None,
    method: str | None,
    options: Mapping[str, Any],
    plan: Path | None,
    narf: bool | None,
    budget: str | None,
    say: Callable[[str], None],
) -> Request:
    """Decide what is to be searched with, and check it, without loading a model.

    Args:
        config: that was named, if one was.
        model: as ``--model`` has it; of it the pipeline, not a config, says what is unsaid.
        loras: as ``--lora``.
        components: as ``--components``.
        reward: names in the config, or ``KIND:PATH``, divided by commas.
        sampling: given settings; None and what is left out is as the config or the model has it.
        runtime: likewise.
        dtype, quantization: of the model.
        method: its name.
        options: of the method.
        plan: file of a plan.
        narf: whether the run's checkpoints verify; None leaves it to the method.
        budget: as it is written.
        say: shows a line to the user.

    Raises:
        UserError: anything of it is unknown, impossible, or made for another model.
    """
    base = config or Config()
    own = model is not None or base.model.path != Config().model.path
    given = {name: value for name, value in sampling.items() if value is not None}
    placed = {name: value for name, value in runtime.items() if value is not None}
    said = {"dtype": dtype, "quantization": quantization}
    bits: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    asked_scheduler = "scheduler" in given
    if asked_scheduler:
        given["scheduler"] = read_scheduler(given["scheduler"]).model_dump()
    for kind, said in (
        (Sampling, given),
        (Runtime, placed),
        (Model, bits),
    ):
        _check_values(kind, said)
    spend = None if budget is None else Budget.parse(budget, base.costs.unit)
    asked = None if method is None else method_named(method)
    _check_method(asked, options, plan, narf)

    # What only the workflow reads need not fit the steps of a search.
    settings = base.model_dump(exclude_unset=True, exclude=WORKFLOW_ONLY) if config else {}
    sampled: dict[str, Any] = settings.get("sampling", {}) if own else base.sampling.model_dump()
    settings["sampling"] = {**sampled, **given}
    usual = {"device": "auto", "batch_size": BATCH} if own else {}
    settings["runtime"] = {**usual, **settings.get("runtime", {}), **placed}
    if "costs" in settings and (model is not None or given):
        settings["costs"] = {
            key: price for key, price in settings["costs"].items() if key not in OF_A_MODEL
        }
    names = _rewards(settings, base, own, reward, config, say)
    settings["model"] = _model(base.model, model, loras, components, bits, say)
    whole = validated(settings)
    check(whole)
    chosen = {name: whole.rewards[name] for name in names}
    for name, one in chosen.items():
        check_reward(one, name)

    run = None if model is not None and config is None else Path(whole.results, whole.run)
    made = made_by(run) if run is not None else None
    wanted = made_for(whole.model, whole.sampling, chosen)
    if own:
        wanted["sampling"] |= {name: OWN for name in WORLD if name not in settings["sampling"]}
    how = asked or _usual_method(made, wanted, run, names, base.narf.steps, narf)
    if narf and not how.verified:
        raise UserError("--narf: ttsp looks by the untouched reward; with checkpoints it is ttsnap")
    verified = how.looks_by_narf if narf is None else narf
    steps = settings["sampling"].get("steps")
    found = None
    if how.prunes and "schedule" not in options:
        found = _plan(plan, run, names[0], made, wanted, say)
        if found is not None:
            by = names[0] if len(names) == 1 else "joint"
            check_plan(found, verified, by, steps or found["steps"])
    if verified:
        if run is None or made is None:
            raise UserError(
                f"method {how.name}: looks by NARF checkpoints, and there is no run that trained "
                "any for this model; use --method ttsp, or name the run's --config"
            )
        if other := difference(made, wanted):
            raise UserError(
                f"{run}/narf: was made for another search: {other}; use --method ttsp, or run the "
                "workflow for this one"
            )
        checkpoints(run, names, _looks(how, options) or base.narf.steps)
    if steps is not None:
        check_options(open_options(how, options), steps)
    searched = "search" in base.model_fields_set and "budgets" in base.search.model_fields_set
    if spend is None and (searched or not own):
        spend = Budget(whole.search.budgets[-1], whole.costs.unit)
    return Request(
        model=whole.model,
        sampling=settings["sampling"] if own else whole.sampling,
        asked_scheduler=asked_scheduler,
        rewards=chosen,
        method=how,
        options=dict(options),
        budget=spend,
        costs=whole.costs,
        runtime=whole.runtime,
        plan=found,
        run=run if verified else None,
        folder=Path(whole.results, "search") if run is None else run / "live",
        narf_steps=base.narf.steps,
    )


def load(request: Request, *, keep_finals: bool = False, threads: int | None = None) -> Loaded:
    """Load the models of a request, and decide what hangs on them: prices, budget, schedule.

    Args:
        request: of :func:`request_of`.
        keep_finals: as of :class:`~ttsnap.searching.searcher.Searcher`.
        threads: of the CPU; None is as many as the work is worth.

    Raises:
        UserError: a model cannot be loaded, or the schedule or the plan is not for its steps.
    """
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.linear_preview import LinearPreview
    from ttsnap.diffusion.loading import settled
    from ttsnap.diffusion.threads import use_threads
    from ttsnap.rewards.verifiers import SharedReward
    from ttsnap.searching.searcher import Searcher

    how, device = request.method, request.runtime.device
    model = settled(request.model, request.runtime)
    # Rewards are smaller than the model, and what is wrong with them is told sooner.
    shared = {
        name: _loaded(partial(SharedReward, one, name=name, device=device), one)
        for name, one in request.rewards.items()
    }
    sampler = load_sampler(model, request.sampling, request.runtime)
    if request.asked_scheduler:
        check_scheduler(how, sampler)
    use_threads(sampler, threads)
    searcher = Searcher(
        sampler,
        [one.verifier(None) for one in shared.values()],
        costs=request.costs,
        model=model,
        batch_size=request.runtime.batch_size,
        keep_finals=keep_finals,
    )
    if model.linear_preview:
        # A plan goes by its price, and says only then whether checks see it.
        sampler.previewer = LinearPreview.unfitted(sampler)
    unit = request.budget.unit if request.budget else request.costs.unit
    costs = searcher.prices(unit)
    budget = request.budget or usual_budget(costs)
    given, notice = dict(request.options), ""
    by = next(iter(request.rewards)) if len(request.rewards) == 1 else "joint"
    strategy = how.name
    if request.plan is not None:
        verified = request.run is not None
        strategy, chosen = planned(request.plan, verified, budget.value, by, costs)
        given |= chosen
    elif how.prunes and "schedule" not in given:
        judges = [*request.rewards.values()]
        shipped = shipped_for(model.family, judges, sampler, costs, budget)
        given["schedule"] = str(shipped.schedule)
        notice = shipped.notice
    options = method_options(how, given)
    check_options(options, sampler.steps)
    runs, suffix = split_look(strategy)
    if suffix:
        assert request.run is not None  # TTSp sees previews only where it stands for TTSnap
        if not model.linear_preview:
            raise UserError(
                f"plan: runs {strategy}, for which the model lacks preview: {{kind: linear}}; add "
                "it, or use --method ttsp"
            )
        sampler.previewer = LinearPreview.load(request.run / PREVIEW, sampler)
    elif model.linear_preview:
        sampler.previewer = None
    costs = searcher.prices(unit)
    folders: dict[int, dict[str, Path]] = {}
    if request.run is not None and not runs.endswith("ttsp"):
        steps = list(request.narf_steps)
        if isinstance(options, Pruning):
            checks = options.checks(sampler.steps).checks
            steps = [check.step for check in checks if check.step != DRAFT]
        folders = checkpoints(request.run, request.rewards, steps, suffix)
    searcher.verifiers = {
        step: tuple(shared[name].verifier(path) for name, path in of.items())
        for step, of in folders.items()
    }
    about = (
        "" if isinstance(request.sampling, Sampling) else _about(model, searcher.sampler_for(how))
    )
    look = "decode" if sampler.previewer is None else "preview"
    return Loaded(searcher, model, costs, budget, options, folders, look, about, notice)


def _check_values(kind: type[Settings], said: Mapping[str, Any]) -> None:
    """Refuse a value that a setting cannot have, whatever the others are."""
    try:
        kind.model_validate(said)
    except ValidationError as error:
        raise UserError(explain(error.errors()[0], kind)) from None


def _check_method(
    method: Method | None, options: Mapping[str, Any], plan: Path | None, narf: bool | None
) -> None:
    """See that options and plan are those of a method; by default it is one that prunes."""
    how = method or METHODS["ttsp"]
    _looks(how, options)
    if plan and not how.prunes:
        raise UserError(f"method {how.name} prunes nothing; leave out --plan")


def _looks(method: Method, options: Mapping[str, Any]) -> list[int]:
    """Steps at which a given schedule checks; none where it is still to come."""
    known = open_options(method, options)
    schedule = Schedule.parse(known.schedule) if isinstance(known, Pruning) else Schedule()
    return [check.step for check in schedule.checks]


def _loaded(load_one: Callable[[], SharedReward], settings: RewardSettings) -> SharedReward:
    """A reward; where PickScore, that of every model of one's own, cannot be had, say what can."""
    path = settings.path or ""
    try:
        if is_hub_id(path) and not hub.is_begun(path):
            hub.newest_commit(path)  # tells at once that there is no network; a download retries
        return load_one()
    except UserError as error:
        if f"{settings.kind}:{path}@{settings.revision}" != PICKSCORE or not is_hub_id(path):
            raise
        raise UserError(
            f"PickScore, {path}, is not in the cache and the hub cannot be reached: fetch it where "
            "there is internet, or give another --reward KIND:PATH, such as clip:FOLDER; "
            "`ttsnap rewards` lists the kinds"
        ) from error


def _about(model: Model, sampler: Sampler) -> str:
    """How a model of one's own is sampled, in a line."""
    sampling = sampler.sampling
    frames = f" x {sampling.frames} frames" if sampling.frames > 1 else ""
    return (
        f"{model.family}, {sampling.width} x {sampling.height} pixels{frames}, {sampling.steps} "
        f"steps, guidance {sampling.guidance_scale:g}, {sampling.scheduler.name}; "
        f"{model.quantization or model.dtype} on {sampler.device}"
    )


def _model(
    base: Model,
    model: str | None,
    loras: Sequence[str],
    components: str | None,
    bits: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    from ttsnap.diffusion.sources import read_lora, read_model, with_family

    if model is not None:
        found = read_model(model, loras=loras, components=components, say=say)
        return {**found.model_dump(), **bits}
    given = base.model_dump()
    if components is not None:
        given["components"] = components
    if loras:
        given["loras"] = [*given.get("loras", []), *(read_lora(one, say) for one in loras)]
    return with_family(Model.model_validate({**given, **bits})).model_dump()


def _rewards(
    settings: dict[str, Any],
    base: Config,
    own: bool,
    reward: str | None,
    config: Config | None,
    say: Callable[[str], None],
) -> list[str]:
    """Names of what judges; those that the config does not have are added to ``settings``."""
    known = base.model_dump()["rewards"]
    if own and (config is None or "rewards" not in config.model_fields_set):
        # The reward of the embedded world knows captions of shapes only.
        known = {}
        if reward is None:
            reward = PICKSCORE
            say(f"no --reward: PickScore judges, {PICKSCORE.partition(':')[2]}")
    from ttsnap.diffusion.sources import pinned

    names = []
    for text in (reward or base.search.reward).split(","):
        name = text
        if text not in known:
            name, one = read_reward(text)
            if one.get("path") and not one.get("revision"):
                one["path"], one["revision"] = pinned(one["path"], say)
            known[name] = one
        if name in names:
            raise UserError(f"--reward {reward}: {name} is listed twice")
        names.append(name)
    settings["rewards"] = known
    if base.search.reward not in known:
        settings["search"] = settings.get("search", {}) | {"reward": names[0]}
    return names


def _usual_method(
    made: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    run: Path | None,
    rewards: Sequence[str],
    steps: Sequence[int],
    narf: bool | None,
) -> Method:
    """ttsnap where its verifiers are, or are asked for, and ttsp elsewhere."""
    if narf:
        return METHODS["ttsnap"]
    if narf is None and run is not None and made is not None and difference(made, wanted) is None:
        try:
            checkpoints(run, rewards, steps)
            return METHODS["ttsnap"]
        except UserError:
            pass
    return METHODS[DEFAULT]


def _plan(
    given: Path | None,
    run: Path | None,
    reward: str,
    made: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """The plan that was given, or the run's if it was made for this; None if there is neither."""
    if given is not None:
        found = read_plan(given)
        known = found.get("provenance", {}).get("made_for")
        if known is None:
            say(f"{given}: does not tell its model and reward; taken as made for these")
        elif other := difference(known, wanted):
            raise UserError(
                f"{given}: was made for another search: {other}; leave out --plan, for a schedule "
                "that ships, or plan for this one"
            )
        return found
    file = None if run is None else run / "plan" / f"{reward}.json"
    if file is None or made is None or not file.exists():
        return None
    if other := difference(made, wanted):
        say(f"{file}: left out, made for another search: {other}; run the workflow for a new one")
        return None
    return read_plan(file)
