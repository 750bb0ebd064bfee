"""What a person typed: every override is looked at, and every mistake told, before anything is composed for good."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alframe.config.parts import assemble
from alframe.config.schema import COMPOSING, CONFIGS, RESERVED, Compose, first_line, without_hydra
from alframe.errors import ConfigError, did_you_mean


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
            problems += assemble(without_hydra(cfg))[1]
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
            letters = (
                ""
                if text.isascii()
                else """ (other letters than a to z in quotes, as in 'annotator.people=["Jörg"]')"""
            )
            problems.append(
                f"Expected overrides like trainer.lr=0.1, got '{text}' ({reason}); mind quotes and spaces{letters}."
            )
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


def _is_group(override: Override) -> bool:
    return _is_group_text(str(override.key_or_group))


def _is_group_text(text: str) -> bool:
    name = text.split("=", 1)[0].split("@", 1)[0]  # strategy@strategy.first=badge: a choice for a place inside
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
            listed = f"{hint} The choices are" if hint else "; choose one of"
            return f"Expected a choice for {group}, got '{choice}'{listed} {', '.join(options)}."
    return None


def _key_problem(override: Override, base: DictConfig) -> str | None:
    """An option that does not exist. `+key=value` is checked in the composed config."""
    key = str(override.key_or_group)
    if override.is_add() or override.is_force_add() or key.startswith("hydra"):
        return None
    known = dict.fromkeys(_keys(OmegaConf.to_container(without_hydra(base), resolve=False)))
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
