"""From YAML and overrides to built parts: schema, checks, construction. With the command line, the only importer of hydra.

All mistakes are reported together, before any data is read. Nothing below this file ever sees a config object.
"""

import functools
import hashlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import hydra
import numpy as np
import torch
from beartype import BeartypeConf, FrozenDict
from beartype.door import is_bearable
from beartype.vale import Is
from hydra._internal.utils import _locate
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alframe.annotator.base import make_annotator
from alframe.budget import Budget
from alframe.dataset.base import Dataset
from alframe.dataset.cache import default_cache
from alframe.errors import AlframeError, ConfigError, did_you_mean
from alframe.images import Data
from alframe.loop import Experiment, check_parts
from alframe.strategy.base import Strategy
from alframe.trainer.trainer import Trainer
from alframe.uncertainty.base import Uncertainty

_INSIDE = Path(__file__).parent / "configs"  # in a wheel; in a checkout they lie at the top level
CONFIGS = _INSIDE if _INSIDE.is_dir() else Path(__file__).parent.parent / "configs"
GROUPS = ("dataset", "model", "trainer", "uncertainty", "strategy", "budget", "annotator")
TYPES = {"dataset": Dataset, "trainer": Trainer, "uncertainty": Uncertainty, "strategy": Strategy, "budget": Budget}
"""What the parts must be; a model and an annotator are made later, so theirs is anything that can be called."""
IN_EVERY_CELL = ("dataset", "model", "uncertainty", "strategy")
NO_RESULT = (
    "device",
    "threads",
    "progress",
    "traceback",
    "resident_bytes",
    "cache",
    "run",
    "query.max_bytes",
    "query.batch_size",
)
"""Options that cannot change a result: kept out of the run's config, free to differ between launches."""
INJECTED = {
    "model": {"shape", "n_classes"},
    "annotator": {"labels", "classes", "seed"},
    "trainer.optimizer": {"params", "lr"},
}
"""What the loop hands to a part beside the values of its YAML."""
NO_PRESET = ("experiment=null", "debug=null")
"""The defaults, which Hydra does not take as overrides."""
COMPOSING = (HydraException, OmegaConfBaseException)
RESERVED = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
CELL_LENGTH = 80


@dataclass
class RunOptions:
    name: str | None = None
    root: str = "runs"
    overwrite: bool = False
    tensorboard: bool = True
    checkpoint: bool = False


@dataclass
class QueryOptions:
    max_bytes: int = 1 << 30
    batch_size: int = 256
    target: str = "pool"
    target_size: int = 500


@dataclass
class Schema:
    """What the loop reads; the groups are checked against the signatures of their `_target_`."""

    dataset: Any = None
    model: Any = None
    trainer: Any = None
    uncertainty: Any = None
    strategy: Any = None
    budget: Any = None
    annotator: Any = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    progress: bool = True
    traceback: bool = False
    resident_bytes: int = 4 << 30
    cache: str | None = None
    run: RunOptions = field(default_factory=RunOptions)
    query: QueryOptions = field(default_factory=QueryOptions)


ConfigStore.instance().store(name="schema", node=Schema)


@dataclass(frozen=True)
class Plan:
    """A checked and built experiment that has not read its data."""

    dataset: Dataset
    parts: dict[str, Any]
    folder: Path
    identity: dict[str, Any]
    cache: Path
    device: torch.device
    seed: int
    options: dict[str, Any]

    def experiment(self, data: Data) -> Experiment:
        query = self.options["query"]
        return Experiment(
            data=data,
            build_network=self.parts["model"],
            trainer=self.parts["trainer"],
            uncertainty=self.parts["uncertainty"],
            strategy=self.parts["strategy"],
            annotator=self.parts["annotator"],
            budget=self.parts["budget"],
            seed=self.seed,
            device=self.device,
            cache=self.cache,
            batch_size=query["batch_size"],
            max_bytes=query["max_bytes"],
            target=query["target"],
            target_size=query["target_size"],
            resident_bytes=self.options["resident_bytes"],
            show_progress=self.options["progress"],
        )


def load(overrides: Iterable[str] = (), config_dir: str | None = None) -> Plan:
    """The plan for a list of overrides, as on the command line. Raises `ConfigError` with every mistake."""
    overrides = [text for text in overrides if text not in NO_PRESET]
    with composer(config_dir) as compose:
        check_overrides(overrides, compose, multirun=False)
        cfg = compose(overrides)
        choices, tasks = dict(cfg.hydra.runtime.choices), list(cfg.hydra.overrides.task)
    return build(_without_hydra(cfg), choices, tasks)


# -- composing -------------------------------------------------------------------------------------------------------


Compose = Callable[[list[str]], DictConfig]


class composer:
    """`with composer() as compose: cfg = compose(overrides)`; leaves Hydra's global state as it found it."""

    def __init__(self, config_dir: str | None = None) -> None:
        if config_dir and not Path(config_dir).is_dir():
            raise ConfigError(
                f"Expected a folder of YAML files in --config-dir, got '{config_dir}', which is not there."
            )
        self.extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []

    def __enter__(self) -> Compose:
        GlobalHydra.instance().clear()
        self._context = hydra.initialize_config_dir(str(CONFIGS), version_base="1.3")
        self._context.__enter__()
        return lambda overrides: hydra.compose("config", [*self.extra, *overrides], return_hydra_config=True)

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)
        GlobalHydra.instance().clear()


def check_overrides(overrides: list[str], compose: Compose, *, multirun: bool | None = None) -> None:
    """Raise one `ConfigError` with all that is wrong: unknown options, unknown choices, misspelt keys, values out of range.

    `multirun` says whether lists of values are swept over; None: where `hydra.mode`, which presets set, says so.
    """
    problems: list[str] = []
    parsed = _parsed(overrides, problems)
    groups = [text for override in parsed if _is_group(override) for text in _values(override, None, problems)[:1]]
    base = _composed(compose, groups, problems)
    if base is None:
        raise ConfigError("\n".join(problems))
    given: list[str] = []
    sweeps: list[str] = []
    unasked = []
    for override in parsed:
        texts = _values(override, base, problems)
        given, sweeps = given + texts[:1], sweeps + texts[1:]
        unasked += [override] if texts and override.is_sweep_override() else []
    cfg = _composed(compose, given, problems)
    if cfg is not None and (cfg.hydra.mode is RunMode.MULTIRUN if multirun is None else multirun):
        unasked = []
        taken = {override.get_key_element() for override in parsed}
        preset = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items() if key not in taken]
        for override in _parsed(preset, problems):
            texts = _values(override, cfg, problems)
            given, sweeps = given + texts[:1], sweeps + texts[1:]
    for override in unasked:
        problems.append(f"Expected one value, got '{override.input_line}'; add -m to run every combination.")
    for cell in [None, *sweeps]:
        cfg = _composed(compose, [*_replacing(given, cell), cell] if cell else given, problems)
        if cfg is not None:
            problems += assemble(_without_hydra(cfg))[1]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _parsed(overrides: Iterable[str], problems: list[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed: list[Override] = []
    for text in overrides:
        try:
            (override,) = parser.parse_overrides([text])
            reason = "" if override.key_or_group else "no name before the ="
        except HydraException as error:
            reason = str(error).splitlines()[0]
        if reason:
            problems.append(f"Expected overrides like trainer.lr=0.1, got '{text}' ({reason}); mind quotes and spaces.")
        else:
            parsed.append(override)
    return parsed


def _values(override: Override, base: DictConfig | None, problems: list[str]) -> list[str]:
    """The override with each value that it sweeps over, or as it is; none where it cannot be (the reason is appended)."""
    problem = _sweep_problem(override)
    if not problem:
        problem = (
            _group_problem(override)
            if _is_group(override)
            else _key_problem(override, base)
            if base is not None
            else None
        )
    if problem:
        problems.append(problem)
        return []
    if not override.is_sweep_override():
        return [override.input_line or f"{override.get_key_element()}={override.get_value_element_as_str()}"]
    key, choices = override.get_key_element(), _choices(override)
    if key == "seed":  # any number of seeds are one check
        choices = choices[:1] + [choice for choice in choices[1:] if not choice.lstrip("-").isdecimal()]
    return [f"{key}={choice}" for choice in choices]


def _sweep_problem(override: Override) -> str | None:
    if not override.is_sweep_override():
        return None
    if not override.is_discrete_sweep() or not _choices(override):
        return f"Expected a list of values, got '{override.input_line}'; write them out, as in seed=0,1,2."
    if override.key_or_group == "budget.rounds":
        return f"Expected one number of rounds, got '{override.input_line}'; a run's first rounds are those of a shorter one, so ask for the most."
    return None


def _replacing(values: list[str], cell: str) -> list[str]:
    return [text for text in values if text.split("=", 1)[0] != cell.split("=", 1)[0]]


def _composed(compose: Compose, overrides: list[str], problems: list[str]) -> DictConfig | None:
    """The config without the overrides that Hydra refuses, whose reasons are appended; None where that is not enough.

    Hydra stops at the first bad override; trying them one after another tells them all.
    """
    try:
        return compose(overrides)
    except COMPOSING:
        accepted: list[str] = []
        cfg = None
        for text in sorted(overrides, key=lambda text: not _is_group_text(text)):  # a value may belong to a chosen part
            try:
                cfg = compose([*accepted, text])
                accepted.append(text)
            except COMPOSING as error:
                problems.append(f"Expected a value that fits, got '{text}': {first_line(error)}.")
        return cfg


def first_line(error: BaseException) -> str:
    """Hydra wraps the reason: the innermost cause says it best."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _is_group(override: Override) -> bool:
    return _is_group_text(str(override.key_or_group))


def _is_group_text(text: str) -> bool:
    name = text.split("=", 1)[0]
    return not name.startswith("hydra") and (CONFIGS / name).is_dir()


def _choices(override: Override) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]


def _group_problem(override: Override) -> str | None:
    group = str(override.key_or_group)
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    if override.is_delete():
        return f"Expected a choice for {group}, got '{override.input_line}'; choose one of {', '.join(options)}."
    for choice in _choices(override):
        if choice not in options:
            choice = "null" if choice == "None" else choice
            hint = did_you_mean(choice, options)
            return f"Expected one of {', '.join(options)} for {group}, got '{choice}'{hint or '; choose one of these.'}"
    return None


def _key_problem(override: Override, base: DictConfig) -> str | None:
    """An option that does not exist. `+key=value` is checked in the composed config."""
    key = str(override.key_or_group)
    if override.is_add() or override.is_force_add() or key.startswith("hydra"):
        return None
    known = dict.fromkeys(_keys(OmegaConf.to_container(_without_hydra(base), resolve=False)))
    if key in known:
        return None
    group, leaf = key.split(".", 1)[0], key.rsplit(".", 1)[-1]
    inside = [name for name in known if name.startswith(f"{group}.")]
    same_leaf = [name for name in inside or known if name.rsplit(".", 1)[-1] == leaf]
    if len(same_leaf) == 1:
        hint = f"; did you mean '{same_leaf[0]}'?"
    elif inside:
        within = [name.removeprefix(f"{group}.") for name in inside]
        options = [name for name in within if "." not in name and name not in RESERVED]
        near = did_you_mean(key.removeprefix(f"{group}."), within).replace("'", f"'{group}.", 1)
        hint = near or f"; {group} takes {', '.join(options) or 'nothing'}."
    else:
        hint = did_you_mean(key, known, otherwise="; alframe --cfg job lists them all.")
    return f"Expected a known option, got '{key}'{hint}"


def _keys(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            yield name
            yield from _keys(value, name)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _without_hydra(cfg: DictConfig) -> DictConfig:
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    container.pop("hydra", None)
    return OmegaConf.create(container)


# -- checking --------------------------------------------------------------------------------------------------------


def assemble(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The parts of a composed config, built, and everything that is wrong with it and can be known without data."""
    try:
        tree = _plain(cfg)
    except OmegaConfBaseException as error:
        return {}, [f"Expected references that resolve, got: {first_line(error)}."]
    missing = list(_missing(tree, Schema()))
    if missing:
        return {}, missing
    by_group = {group: [*_node_problems(group, tree[group]), *_not_finite(tree[group], group)] for group in GROUPS}
    parts, problems = _construct(tree, [group for group in GROUPS if not by_group[group]])
    problems = [
        *_unknown(tree, Schema()),
        *(problem for group in GROUPS for problem in by_group[group]),
        *problems,
        *_probe(parts, tree),
        *_option_problems(tree),
    ]
    if not problems:
        try:
            check_parts(parts["strategy"], parts["uncertainty"], parts["trainer"], parts["budget"])
        except AlframeError as error:
            problems.append(str(error))
    return parts, problems


def _missing(tree: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[str]:
    """Options of the loop that were deleted or left open."""
    for option in fields(schema):
        value, name = tree.get(option.name, "???"), f"{prefix}{option.name}"
        if isinstance(value, str) and value == "???":
            yield f"Expected a value for {name}, got none; it can be neither deleted nor left open."
        elif is_dataclass(getattr(schema, option.name)):
            yield from _missing(value, getattr(schema, option.name), f"{name}.")


def _unknown(tree: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[str]:
    """Options that were added and that the loop does not know."""
    known = [f"{prefix}{option.name}" for option in fields(schema)]
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name not in known:
            hint = did_you_mean(name, known, otherwise="; alframe --cfg job lists them all.")
            yield f"Expected a known option, got '{name}'{hint}"
        elif is_dataclass(getattr(schema, key)):
            yield from _unknown(value, getattr(schema, key), f"{name}.")


def _not_finite(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, float) and not math.isfinite(node):
        yield f"Expected a finite number for {path}, got {node}."
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _not_finite(value, f"{path}.{key}")


def _option_problems(tree: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, lowest in (
        ("query.max_bytes", 1 << 20),
        ("query.batch_size", 1),
        ("query.target_size", 1),
        ("resident_bytes", 0),
    ):
        value = tree["query"][key[6:]] if key.startswith("query.") else tree[key]
        if value < lowest:
            problems.append(f"Expected {key} >= {lowest}, got {value}.")
    if tree["query"]["target"] not in ("pool", "test"):
        problems.append(f"Expected query.target to be pool or test, got '{tree['query']['target']}'.")
    if tree["threads"] is not None and tree["threads"] < 1:
        problems.append(f"Expected threads >= 1 or null, got {tree['threads']}.")
    try:
        pick_device(tree["device"])
    except ConfigError as error:
        problems.append(str(error))
    return problems


def _node_problems(path: str, node: Any) -> Iterator[str]:
    """Keys of a `_target_` node against the signature of what it names, at any depth."""
    if isinstance(node, list):
        for position, item in enumerate(node):
            yield from _node_problems(f"{path}.{position}", item)
    if not isinstance(node, Mapping):
        if path in GROUPS:
            yield f"Expected a choice for {path}, got {node}; alframe --help lists them."
        return
    if path in GROUPS and "_target_" not in node:
        node = {**node, "_target_": None}
    children = {key: value for key, value in node.items() if key not in RESERVED}
    if "_target_" in node:
        target = node["_target_"]
        if target in (None, "???"):
            yield f"Expected a class in {path}._target_, got nothing; name yours, as in {path}._target_=mylab.MyClass."
            return
        try:
            thing = _locate(target)  # `hydra.utils.get_object` also logs
        except Exception as error:
            yield f"Expected an importable class in {path}._target_, got '{target}' ({first_line(error)}); run from the folder it lies in, or install it."
            return
        if not callable(thing):
            yield f"Expected a class or function in {path}._target_, got '{target}', which is a {type(thing).__name__}."
            return
        yield from _signature_problems(path, thing, children, partial_node=bool(node.get("_partial_")))
    for key, value in children.items():
        yield from _node_problems(f"{path}.{key}", value)


def _signature_problems(
    path: str, thing: Callable[..., Any], children: Mapping[str, Any], *, partial_node: bool
) -> Iterator[str]:
    try:
        parameters = inspect.signature(thing).parameters
    except (TypeError, ValueError):  # some builtin classes have none
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    injected = INJECTED.get(path, set())
    known = [name for name in parameters if name not in injected]
    for key in children:
        if key not in known:
            hint = did_you_mean(key, known, otherwise=f"; it takes {', '.join(known) or 'nothing'}.")
            yield f"Expected an option of {getattr(thing, '__name__', thing)} in {path}, got '{key}'{hint}"
    hints = _hints(thing)
    for name, parameter in parameters.items():
        if name in children:
            value = children[name]
            if value == "???":
                yield f"Expected a value for {path}.{name}, got none; set {path}.{name}=..."
            elif name in hints and not _contains_target(value) and not _fits(value, hints[name]):
                yield f"Expected {path}.{name} to be {_spell(hints[name])}, got {value!r}."
        elif parameter.default is parameter.empty and not partial_node and name not in injected:
            yield f"Expected a value for {path}.{name}, got none; set +{path}.{name}=..."


def _hints(thing: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(thing, eval_str=True).parameters.values()
    except Exception:  # a user's class may carry annotations that do not resolve here; then values go unchecked
        return {}
    return {p.name: p.annotation for p in parameters if p.annotation is not p.empty}


def _is_int(value: object) -> bool:
    return type(value) is int  # YAML's true is no number, though Python says it is


def _is_float(value: object) -> bool:
    return type(value) in (int, float)


NUMBERS = BeartypeConf(
    hint_overrides=FrozenDict({int: Annotated[object, Is[_is_int]], float: Annotated[object, Is[_is_float]]})
)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value from YAML fits an annotation; whole numbers fit floats, strings fit paths."""
    if isinstance(value, str) and is_bearable(Path(value), hint):
        return True
    return all(is_bearable(alone, hint, conf=NUMBERS) for alone in _alone(value))


def _alone(value: Any) -> Iterator[Any]:
    """Nested lists as lists of one: beartype looks at one item of a list, picked at random."""
    if isinstance(value, list) and value:
        for item in value:
            yield from ([alone] for alone in _alone(item))
    else:
        yield value


def _spell(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Literal:
        values = [str(value) for value in typing.get_args(hint)]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _contains_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(_contains_target(item) for item in value.values())
    return isinstance(value, list) and any(_contains_target(item) for item in value)


def _construct(tree: Mapping[str, Any], groups: Iterable[str] = GROUPS) -> tuple[dict[str, Any], list[str]]:
    """The parts of `groups`, built; constructors check their ranges and read nothing."""
    parts: dict[str, Any] = {}
    problems = []
    for group in groups:
        try:
            part = hydra.utils.instantiate(tree[group], _convert_="all")
        except InstantiationException as error:
            problems.append(_not_built(group, error))
            continue
        wanted = TYPES.get(group)
        if isinstance(part, wanted) if wanted else callable(part):
            parts[group] = part
        else:
            name = f"a {wanted.__name__}" if wanted else f"something that makes a {group} (with _partial_: true)"
            problems.append(
                f"Expected {name} from {group}._target_={tree[group]['_target_']}, got {type(part).__name__}."
            )
    return parts, problems


def _probe(parts: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[str]:
    """Ranges that only show in use: parts that are made once data are there are tried on next to nothing."""
    if "trainer" in parts:
        try:
            parts["trainer"].optimizer([torch.nn.Parameter(torch.zeros(1, 1))], lr=parts["trainer"].lr)
        except Exception as error:
            yield _not_built("trainer.optimizer", error)
    if "budget" in parts:
        try:
            parts["budget"].n_images(0)
        except Exception as error:
            yield _not_built("budget", error)
    if _is_ours(parts.get("annotator")) and tree["annotator"].get("confusion") is None:
        try:
            make_annotator(parts["annotator"], labels=np.zeros(2, dtype=np.int64), classes=("a", "b"), seed=0)
        except AlframeError as error:
            yield str(error)
    if _is_ours(parts.get("model")) and "weights" not in tree["model"]:  # weights may have to be downloaded
        try:
            with torch.device("meta"):
                parts["model"]((3, 64, 64), 2)
        except Exception as error:  # another image size may do
            if str(error).startswith("Expected model."):
                yield str(error)


def _is_ours(part: Any) -> bool:
    """Whether a part is made later by a class of this package: those have no side effects."""
    return isinstance(part, functools.partial) and part.func.__module__.startswith("alframe.")


def _not_built(name: str, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AlframeError):
        cause = cause.__cause__
    return str(cause) if cause else f"Expected {name} to be built, got: {first_line(error)}."


# -- building --------------------------------------------------------------------------------------------------------


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Plan:
    """Construct every part. Raises `ConfigError` with every mistake."""
    parts, problems = assemble(cfg)
    if problems:
        raise ConfigError("\n".join(problems))
    tree = _plain(cfg)
    device = pick_device(tree["device"])
    cache = Path(tree["cache"]).expanduser() if tree["cache"] else default_cache()
    run = tree["run"]
    study = run["name"] or choices.get("experiment") or choices.get("dataset")
    choices = {group: choices.get(group) for group in GROUPS}
    folder = Path(run["root"]).expanduser() / str(study) / cell_name(choices, overrides) / f"seed={tree['seed']}"
    return Plan(
        dataset=parts["dataset"],
        parts=parts,
        folder=folder,
        identity=_identity(tree, choices, parts["trainer"], device),
        cache=cache,
        device=device,
        seed=tree["seed"],
        options={
            **run,
            "query": tree["query"],
            **{key: tree[key] for key in ("progress", "resident_bytes", "threads", "traceback")},
        },
    )


def _identity(
    tree: Mapping[str, Any], choices: Mapping[str, Any], trainer: Trainer, device: torch.device
) -> dict[str, Any]:
    """All that can change a result, and how it was chosen."""
    identity = {"choices": dict(choices), **{key: value for key, value in tree.items() if key not in NO_RESULT}}
    identity |= {group: {**_defaults(tree[group], group), **tree[group]} for group in GROUPS}
    identity["query"] = {key: value for key, value in tree["query"].items() if f"query.{key}" not in NO_RESULT}
    channels_last = device.type == "cuda" if trainer.channels_last is None else trainer.channels_last
    identity["resolved"] = {  # what follows the device, and changes results by more than rounding
        "precision": str(trainer._dtype(device)).removeprefix("torch."),
        "channels_last": channels_last,
    }
    return identity


def _defaults(node: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The options of a part that its node leaves to the constructor."""
    try:
        parameters = inspect.signature(_locate(node["_target_"])).parameters
    except (TypeError, ValueError):
        return {}
    plain = (str, int, float, bool, list, type(None))
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if isinstance(parameter.default, plain) and name not in INJECTED.get(group, ())
    }


def cell_name(choices: Mapping[str, Any], overrides: Iterable[str]) -> str:
    """A folder name for one cell of a study: the choices of the main groups, then every other override that can change a result.

    `budget.rounds` is left out: a finished run that is given more rounds goes on in its folder.
    """
    name = "-".join(str(choices[group]) for group in IN_EVERY_CELL)
    quiet = (*NO_RESULT, "seed", "budget.rounds", "experiment", "hydra")
    others = []
    for text in sorted(overrides):
        key = text.lstrip("+~").split("=", 1)[0]
        if key not in IN_EVERY_CELL and not any(
            key == option or key.startswith((f"{option}.", f"{option}/")) for option in quiet
        ):
            others.append(text)
    full = ",".join([name, *others]).replace("/", ".").replace(" ", "")
    if len(full) <= CELL_LENGTH:
        return full
    return f"{full[: CELL_LENGTH - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def pick_device(name: str) -> torch.device:
    """auto: the first CUDA device, else the CPU. Raises `ConfigError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"Expected device to be auto, cpu, cuda or cuda:<number>, got '{name}'.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"Expected device to be auto, cpu, cuda or cuda:<number>, got '{name}'.")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"Expected a CUDA device, got device={name} on a machine with {torch.cuda.device_count()}; use device=auto or cpu."
        )
    return device
