"""The parts of a composed config: options checked against signatures at any depth, construction, and ranges that only use shows."""

import functools
import inspect
import itertools
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import hydra
import torch
from beartype import BeartypeConf, FrozenDict
from beartype.door import is_bearable
from beartype.vale import Is
from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from alframe.annotator.base import Annotator
from alframe.budget import Budget
from alframe.config.kept import INJECTED
from alframe.config.own_code import nearest_name
from alframe.config.schema import GROUPS, OPTIONAL_GROUPS, RESERVED, Schema, first_line, groups_of, plain
from alframe.dataset.base import Dataset
from alframe.dataset.shift.base import Shift
from alframe.errors import AlframeError, ConfigError, did_you_mean
from alframe.experiment import check_parts
from alframe.metrics import Costs
from alframe.strategy.base import Schedule
from alframe.trainer.base import Fitter
from alframe.trainer.trainer import Trainer
from alframe.uncertainty.base import Uncertainty

CHECKED = ("strategy", "uncertainty", "trainer", "budget", "model")  # the arguments of `check_parts`, in order
TYPES = {
    "dataset": Dataset,
    "trainer": Fitter,
    "uncertainty": Uncertainty,
    "strategy": Schedule,
    "budget": Budget,
    "annotator": Annotator,
    "shift": Shift,
}
"""The type of each part; a model makes networks later, so it is anything that can be called."""


def assemble(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The parts of a composed config, built, and everything wrong with it that can be known without data."""
    if os.getcwd() not in sys.path:  # users keep classes of their own there; last, so that they shadow nothing
        sys.path.append(os.getcwd())
    try:
        tree = plain(cfg)
    except OmegaConfBaseException as error:
        return {}, [f"Expected references that resolve, got: {first_line(error)}."]
    missing = list(_missing(tree, Schema()))
    if missing:
        return {}, missing
    groups = groups_of(tree)
    by_group = {group: [*_node_problems(group, tree[group]), *_not_finite(tree[group], group)] for group in groups}
    parts, problems = _construct(tree, [group for group in groups if not by_group[group]])
    problems = [
        *_unknown(tree, Schema()),
        *(problem for group in groups for problem in by_group[group]),
        *problems,
        *_probe(parts, tree),
        *_option_problems(tree),
    ]
    if not problems:
        try:
            check_parts(*(parts[group] for group in CHECKED))
        except AlframeError as error:
            problems.append(str(error))
    return parts, problems


def sweep_problems(cells: Mapping[str, DictConfig]) -> list[str]:
    """What is wrong with a sweep: with each value in `cells`, and with the parts that come of them in any combination.

    `cells` has a config for each override with a value that is swept over; "" stands for the first values of all.
    """
    built = {text: assemble(cfg) for text, cfg in cells.items()}
    problems = [problem for _, found in built.values() for problem in found]
    if not problems:
        choices = [
            [parts[group] for text, (parts, _) in built.items() if not text or text.lstrip("+").startswith(group)]
            for group in CHECKED
        ]
        for combination in itertools.product(*choices):
            try:
                check_parts(*combination)
            except AlframeError as error:
                problems.append(str(error))
    return problems


def _missing(tree: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[str]:
    """Options of the loop that were deleted or have no value."""
    for option in fields(schema):
        value, name = tree.get(option.name, "???"), f"{prefix}{option.name}"
        if isinstance(value, str) and value == "???":
            yield f"Expected a value for {name}, got none; it cannot be deleted or left without one."
        elif is_dataclass(getattr(schema, option.name)):
            yield from _missing(value, getattr(schema, option.name), f"{name}.")


def _unknown(tree: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[str]:
    """Options that were added but that the loop does not know."""
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
    bounds = {"query.max_bytes": 1 << 20, "query.batch_size": 1, "query.target_size": 1, "resident_bytes": 0}
    for key, lowest in bounds.items():
        value = tree["query"][key[6:]] if key.startswith("query.") else tree[key]
        if value < lowest:
            problems.append(f"Expected {key} >= {lowest}, got {value}.")
    target = tree["query"]["target"]
    if target not in ("pool", "test") and not Path(target).expanduser().is_dir():
        problems.append(f"Expected query.target to be pool, test or a folder of images, got '{target}'; correct it.")
    if tree["threads"] is not None and tree["threads"] < 1:
        problems.append(f"Expected threads >= 1 or null, got {tree['threads']}.")
    for trial in (lambda: pick_device(tree["device"]), lambda: Costs(**tree["costs"])):
        try:
            trial()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _node_problems(path: str, node: Any) -> Iterator[str]:
    """Keys of a `_target_` node checked against the signature of what it names, at any depth."""
    if isinstance(node, list):
        for position, item in enumerate(node):
            yield from _node_problems(f"{path}.{position}", item)
    if not isinstance(node, Mapping):
        if path in (*GROUPS, *OPTIONAL_GROUPS):
            yield f"Expected a choice for {path}, got {node}; alframe --help lists them."
        return
    if path in (*GROUPS, *OPTIONAL_GROUPS) and "_target_" not in node:
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
            hint = nearest_name(target) or "; run from the folder that contains it, or install it."
            yield f"Expected an importable class in {path}._target_, got '{target}' ({first_line(error)}){hint}"
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
    except (TypeError, ValueError):  # some built-in classes have none
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
                yield f"Expected {path}.{name} to be {_spell(hints[name])}, got {value!r}{_quoted(f'{path}.{name}', value, hints[name])}."
        elif parameter.default is parameter.empty and not partial_node and name not in injected:
            yield f"Expected a value for {path}.{name}, got none; set +{path}.{name}=..."


def _hints(thing: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(thing, eval_str=True).parameters.values()
    except Exception:  # annotations of a user's class may not resolve here; its values then go unchecked
        return {}
    return {p.name: p.annotation for p in parameters if p.annotation is not p.empty}


WHOLE = Annotated[object, Is[lambda value: type(value) is int]]  # YAML's true is no number, though it is one to Python
NUMBER = Annotated[object, Is[lambda value: type(value) in (int, float)]]
NUMBERS = BeartypeConf(hint_overrides=FrozenDict({int: WHOLE, float: NUMBER}))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value from YAML fits an annotation; whole numbers fit floats, strings fit paths."""
    if isinstance(value, str) and is_bearable(Path(value), hint):
        return True
    return all(is_bearable(alone, hint, conf=NUMBERS) for alone in _alone(value))


def _quoted(key: str, value: Any, hint: Any) -> str:
    """How to write a list of names that YAML takes for numbers, if it is that."""
    texts = [str(item) for item in value] if isinstance(value, list) else []
    if not texts or all(isinstance(item, str) for item in value) or not _fits(texts, hint):
        return ""
    names = ",".join(f'"{text}"' for text in texts)
    return f"; quote names that look like numbers, as in '{key}=[{names}]'"


def _alone(value: Any) -> Iterator[Any]:
    """Nested lists as lists of one item: beartype checks one item of a list, picked at random."""
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
    """The parts of `groups`, built; constructors check ranges and read no data."""
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
            name = f"a {group.capitalize()}" if wanted else f"something that makes a {group} (with _partial_: true)"
            problems.append(
                f"Expected {name} from {group}._target_={tree[group]['_target_']}, got {type(part).__name__}."
            )
    return parts, problems


def _probe(parts: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[str]:
    """Ranges that only use shows: parts that are made once there are data are tried on next to nothing."""
    if isinstance(parts.get("trainer"), Trainer):
        try:
            parts["trainer"].optimizer([torch.nn.Parameter(torch.zeros(1, 1))], lr=parts["trainer"].lr)
        except Exception as error:
            yield _not_built("trainer.optimizer", error)
    if "budget" in parts:
        try:
            parts["budget"].n_images(0)
        except Exception as error:
            yield _not_built("budget", error)
    model: Any = parts.get("model")
    options = {key: value for key, value in tree["model"].items() if key not in RESERVED}
    check_files = getattr(getattr(model, "func", model), "check_files", None)
    if check_files is not None and options.get("weights"):
        try:
            check_files(**options)
        except AlframeError as error:
            yield str(error)
    ours = isinstance(model, functools.partial) and model.func.__module__.startswith("alframe.")  # no side effects
    if ours and "weights" not in tree["model"]:  # weights may need a download
        try:
            with torch.device("meta"):
                model((3, 64, 64), 2)
        except Exception as error:  # another image size may work
            if str(error).startswith("Expected model."):
                yield str(error)


def _not_built(name: str, error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AlframeError):
        cause = cause.__cause__
    return str(cause) if cause else f"Expected {name} to be built, got: {first_line(error)}."


def pick_device(name: str) -> torch.device:
    """auto: the first CUDA device, else the CPU. Raises `ConfigError` for a device that does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unknown = ConfigError(f"Expected device to be auto, cpu, cuda or cuda:<number>, got '{name}'.")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown from error
    if device.type == "mps":
        raise ConfigError(
            "Expected device to be auto, cpu, cuda or cuda:<number>, got 'mps': Apple's GPU has no float64, in which heads, posteriors and metrics are computed; use device=cpu."
        )
    if device.type not in ("cpu", "cuda"):
        raise unknown
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"Expected a CUDA device, got device={name} on a machine with {torch.cuda.device_count()}; use device=auto or cpu."
        )
    return device
