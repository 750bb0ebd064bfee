"""From YAML and overrides to built parts: schema, checks, construction. With the command line, the only importer of hydra.

All mistakes are reported together, before any data is read. Nothing below this file ever sees a config object.
"""

import hashlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
import torch
from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alframe.dataset.base import Dataset
from alframe.dataset.cache import default_cache
from alframe.errors import AlframeError, ConfigError, did_you_mean
from alframe.images import Data
from alframe.loop import Experiment, check_parts

_INSIDE = Path(__file__).parent / "configs"  # in a wheel; in a checkout they lie at the top level
CONFIGS = _INSIDE if _INSIDE.is_dir() else Path(__file__).parent.parent / "configs"
GROUPS = ("dataset", "model", "trainer", "uncertainty", "strategy", "budget", "annotator")
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
    overrides = list(overrides)
    with composer(config_dir) as compose:
        check_overrides(overrides, compose)
        cfg = compose(overrides)
        choices, tasks = dict(cfg.hydra.runtime.choices), list(cfg.hydra.overrides.task)
    return build(_without_hydra(cfg), choices, tasks)


# -- composing -------------------------------------------------------------------------------------------------------


Compose = Callable[[list[str]], DictConfig]


class composer:
    """`with composer() as compose: cfg = compose(overrides)`; leaves Hydra's global state as it found it."""

    def __init__(self, config_dir: str | None = None) -> None:
        self.extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []

    def __enter__(self) -> Compose:
        GlobalHydra.instance().clear()
        self._context = hydra.initialize_config_dir(str(CONFIGS), version_base="1.3")
        self._context.__enter__()
        return lambda overrides: hydra.compose("config", [*self.extra, *overrides], return_hydra_config=True)

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)
        GlobalHydra.instance().clear()


def check_overrides(overrides: list[str], compose: Compose) -> None:
    """Raise one `ConfigError` with all that is wrong: unknown options, unknown choices, misspelt keys, values out of range."""
    problems: list[str] = []
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            problems.append(
                f"Expected overrides like trainer.lr=0.1, got '{text}' ({str(error).splitlines()[0]}); mind quotes and spaces."
            )
    good: list[str] = []
    for override in parsed:
        if _is_group(override):
            problem = _group_problem(override)
            problems += [problem] if problem else []
            good += [] if problem or override.is_sweep_override() else [override.input_line or ""]
            if not problem and override.is_sweep_override():
                good.append(f"{override.get_key_element()}={_choices(override)[0]}")
    base = _composed(compose, good, problems)
    if base is None:
        raise ConfigError("\n".join(problems))
    values, sweeps = list(good), []
    for override in parsed:
        if _is_group(override):
            if override.is_sweep_override() and not _group_problem(override):
                sweeps += [[f"{override.get_key_element()}={choice}"] for choice in _choices(override)]
            continue
        problem = _key_problem(override, base)
        if problem:
            problems.append(problem)
        elif override.is_sweep_override():
            sweeps += [[f"{override.get_key_element()}={value}"] for value in _choices(override)]
            values.append(sweeps[-1][0])
        elif not str(override.key_or_group).startswith("hydra"):
            values.append(override.input_line or "")
    for cell in [[], *sweeps]:
        cfg = _composed(compose, [*_replacing(values, cell), *cell], problems)
        if cfg is not None:
            problems += [p for p in problems_of(_without_hydra(cfg)) if p not in problems]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _replacing(values: list[str], cell: list[str]) -> list[str]:
    keys = {text.split("=", 1)[0] for text in cell}
    return [text for text in values if text.split("=", 1)[0] not in keys]


def _composed(compose: Compose, overrides: list[str], problems: list[str]) -> DictConfig | None:
    """The config without the overrides that Hydra refuses, whose reasons are appended; None where that is not enough.

    Hydra stops at the first bad override; trying them one after another tells them all.
    """
    try:
        return compose(overrides)
    except (HydraException, OmegaConfBaseException):
        accepted: list[str] = []
        cfg = None
        for text in sorted(overrides, key=lambda text: not _is_group_text(text)):  # a value may belong to a chosen part
            try:
                cfg = compose([*accepted, text])
                accepted.append(text)
            except (HydraException, OmegaConfBaseException) as error:
                problems.append(f"Expected a value that fits, got '{text}': {_first_line(error)}.")
        return cfg


def _first_line(error: BaseException) -> str:
    """Hydra wraps the reason: the innermost cause says it best."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0].rstrip(".")


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
        if choice not in options and choice not in ("null", "None"):
            hint = did_you_mean(choice, options)
            return f"Expected one of {', '.join(options)} for {group}, got '{choice}'{hint or '; choose one of these.'}"
    return None


def _key_problem(override: Override, base: DictConfig) -> str | None:
    """An option that does not exist. `+key=value` is looked at by the signature check."""
    key = str(override.key_or_group)
    if override.is_add() or override.is_force_add() or key.startswith("hydra"):
        return None
    known = dict.fromkeys(_keys(OmegaConf.to_container(_without_hydra(base), resolve=False)))
    if key in known:
        return None
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    hint = f"; did you mean '{same_leaf[0]}'?" if len(same_leaf) == 1 else did_you_mean(key, known)
    return f"Expected a known option, got '{key}'{hint or '; alframe --cfg job lists them all.'}"


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


def problems_of(cfg: DictConfig) -> list[str]:
    """Everything that is wrong with a composed config and can be known without data."""
    try:
        tree = _plain(cfg)
    except OmegaConfBaseException as error:
        return [f"Expected references that resolve, got: {_first_line(error)}."]
    by_group = {group: list(_node_problems(group, tree[group])) for group in GROUPS}
    parts, problems = _construct(tree, [group for group in GROUPS if not by_group[group]])
    problems = [*(problem for group in GROUPS for problem in by_group[group]), *problems, *_option_problems(tree)]
    if not problems:
        try:
            check_parts(parts["strategy"], parts["uncertainty"], parts["trainer"], parts["budget"])
        except AlframeError as error:
            problems.append(str(error))
    return problems


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
    children = {key: value for key, value in node.items() if key not in RESERVED}
    if "_target_" in node:
        target = node["_target_"]
        if target in (None, "???"):
            yield f"Expected a class in {path}._target_, got nothing; name yours, as in {path}._target_=mylab.MyClass."
            return
        try:
            thing = hydra.utils.get_object(target)
        except Exception as error:
            yield f"Expected an importable class in {path}._target_, got '{target}' ({_first_line(error)}); run from the folder it lies in, or install it."
            return
        yield from _signature_problems(path, thing, children, partial_node=bool(node.get("_partial_")))
    for key, value in children.items():
        yield from _node_problems(f"{path}.{key}", value)


def _signature_problems(
    path: str, thing: Callable[..., Any], children: Mapping[str, Any], *, partial_node: bool
) -> Iterator[str]:
    parameters = inspect.signature(thing).parameters
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


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value from YAML fits an annotation; whole numbers fit floats, strings fit paths."""
    if isinstance(value, str) and is_bearable(Path(value), hint):
        return True
    return bool(is_bearable(value, hint, conf=BeartypeConf(is_pep484_tower=True)))


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(hint))
    return (
        (hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint))
        .replace("typing.", "")
        .replace("None", "null")
    )


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
            parts[group] = hydra.utils.instantiate(tree[group], _convert_="all")
        except InstantiationException as error:
            cause: BaseException = error
            while cause.__cause__ is not None and not isinstance(cause, AlframeError):
                cause = cause.__cause__
            named = (
                str(cause)
                if isinstance(cause, AlframeError)
                else f"Expected {group} to be built, got: {_first_line(error)}."
            )
            problems.append(named)
    return parts, problems


# -- building --------------------------------------------------------------------------------------------------------


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Plan:
    """Construct every part. Raises `ConfigError` with every mistake."""
    problems = problems_of(cfg)
    if problems:
        raise ConfigError("\n".join(problems))
    tree = _plain(cfg)
    parts, _ = _construct(tree)
    cache = Path(tree["cache"]).expanduser() if tree["cache"] else default_cache()
    run = tree["run"]
    study = run["name"] or choices.get("experiment") or choices.get("dataset")
    choices = {group: choices.get(group) for group in GROUPS}
    folder = Path(run["root"]).expanduser() / str(study) / cell_name(choices, overrides) / f"seed={tree['seed']}"
    return Plan(
        dataset=parts["dataset"],
        parts=parts,
        folder=folder,
        identity=_identity(tree, choices),
        cache=cache,
        device=pick_device(tree["device"]),
        seed=tree["seed"],
        options={
            **run,
            "query": tree["query"],
            **{key: tree[key] for key in ("progress", "resident_bytes", "threads", "traceback")},
        },
    )


def _identity(tree: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """All that can change a result, and how it was chosen."""
    identity = {"choices": dict(choices), **{key: value for key, value in tree.items() if key not in NO_RESULT}}
    identity["query"] = {key: value for key, value in tree["query"].items() if f"query.{key}" not in NO_RESULT}
    return identity


def cell_name(choices: Mapping[str, Any], overrides: Iterable[str]) -> str:
    """A folder name for one cell of a study: the choices of the main groups, then every other override that can change a result."""
    name = "-".join(str(choices[group]) for group in IN_EVERY_CELL)
    quiet = (*NO_RESULT, "seed", "experiment", "hydra")
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
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"Expected a CUDA device, got device={name} on a machine with {torch.cuda.device_count()}; use device=auto or cpu."
        )
    return device
