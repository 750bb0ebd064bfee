"""What a person typed: composed once, checked and built. Only what goes wrong is composed again, to report all errors together."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alframe.config.own_code import with_own
from alframe.config.schema import COMPOSING, NO_PRESET, RESERVED, Compose, composer, first_line, without_hydra
from alframe.errors import ConfigError, did_you_mean
from alframe.names import is_text, printable

if TYPE_CHECKING:
    from alframe.config.plan import Plan


def load(overrides: Iterable[str] = (), config_dir: str | None = None) -> "Plan":
    """The plan for a list of overrides, as on the command line. Raises `ConfigError` with every mistake."""
    texts = with_own([text for text in overrides if text not in NO_PRESET])
    with composer(search_path(texts, config_dir)) as compose:
        plan = check_overrides(texts, compose, multirun=False)
    assert plan is not None
    return plan


def search_path(overrides: Iterable[str], config_dir: str | None = None) -> list[str]:
    """The folders with a user's own YAML files: that of `--config-dir`, and those in an override of `hydra.searchpath`."""
    given = [text for text in overrides if text.lstrip("+").startswith("hydra.searchpath=")]
    found = [override.value() for override in parse(given, [])]
    inside = [str(one) for value in found for one in (value if isinstance(value, list) else [value])]
    return [*([config_dir] if config_dir else []), *inside]


def check_overrides(overrides: list[str], compose: Compose, *, multirun: bool | None = None) -> "Plan | None":
    """The plan of a single run; None for a sweep, of which every value is checked.

    Raises one `ConfigError` with all that is wrong. `multirun` says whether lists of values are swept over; None: where `hydra.mode`,
    which presets set, says so.
    """
    problems: list[str] = []
    parsed = parse(overrides, problems)
    values = [_values(override, compose, problems) for override in parsed]
    cfg, accepted = _composed(compose, [texts[0] for texts in values if texts], problems)
    sweeps = cfg.hydra.mode is RunMode.MULTIRUN if multirun is None else multirun
    if sweeps:
        taken = {override.get_key_element() for override in parsed}
        preset = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items() if key not in taken]
        added = [_values(override, compose, problems) for override in parse(preset, problems)]
        if added:
            cfg, accepted = _composed(compose, [*accepted, *(texts[0] for texts in added if texts)], problems)
            values += added
    else:
        for override, texts in zip(parsed, values, strict=True):
            if texts and override.is_sweep_override():
                problems.append(f"Expected one value, got '{override.input_line}'; add -m to run every combination.")
    cells = {"": cfg}
    for text in [text for texts in values for text in texts[1:]]:
        same = f"{text.split('=', 1)[0]}="
        cells[text], _ = _composed(compose, [*(each for each in accepted if not each.startswith(same)), text], problems)
    if problems and not accepted:  # nothing is left that could be wrong as well
        raise ConfigError("\n".join(dict.fromkeys(problems)))

    from alframe.config.parts import sweep_problems
    from alframe.config.plan import build

    plan = None
    if sweeps or len(cells) > 1:
        problems += sweep_problems({text: without_hydra(cell) for text, cell in cells.items()})
    else:
        try:
            plan = build(without_hydra(cfg), dict(cfg.hydra.runtime.choices), list(cfg.hydra.overrides.task))
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return plan


def parse(overrides: Iterable[str], problems: list[str]) -> list[Override]:
    """The overrides that Hydra can read; a reason for each of the others is appended to `problems`."""
    known = GlobalHydra.instance().hydra
    parser = OverridesParser.create(config_loader=known.config_loader if known else None)
    parsed: list[Override] = []
    for text in overrides:
        if not is_text(text):
            problems.append(
                f"Expected options that are UTF-8, got '{printable(text)}'; rename the folder or file, or make a link to it."
            )
            continue
        try:
            (override,) = parser.parse_overrides([text])
            reason = "" if override.key_or_group else "no name before the ="
        except HydraException as error:
            reason = str(error).splitlines()[0]
        if reason:
            letters = "" if text.isascii() else """ (quote letters beyond a to z, as in 'annotator.people=["Jörg"]')"""
            problems.append(
                f"Expected overrides like trainer.lr=0.1, got '{text}' ({reason}); mind quotes and spaces{letters}."
            )
        else:
            parsed.append(override)
    return parsed


def _values(override: Override, compose: Compose, problems: list[str]) -> list[str]:
    """The override with each value that it sweeps over, or as it is; none if it cannot be (the reason is appended)."""
    problem = None
    if override.is_sweep_override() and (not override.is_discrete_sweep() or not _choices(override)):
        problem = f"Expected a list of values, got '{override.input_line}'; write them out, as in seed=0,1,2."
    elif override.is_sweep_override() and override.key_or_group == "budget.rounds":
        problem = f"Expected one number of rounds, got '{override.input_line}'; a shorter run is the start of a longer one, so ask for the most."
    elif _is_group(str(override.key_or_group), compose):
        problem = _group_problem(override, compose)
    if problem:
        problems.append(problem)
        return []
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [override.input_line or f"{key}={override.get_value_element_as_str()}"]
    choices = _choices(override)
    if key == "seed":  # any number of seeds are one check
        choices = choices[:1] + [choice for choice in choices[1:] if not choice.lstrip("-").isdecimal()]
    return [f"{key}={choice}" for choice in choices]


def _composed(compose: Compose, overrides: list[str], problems: list[str]) -> tuple[DictConfig, list[str]]:
    """The config of the overrides that Hydra accepts, and which those are; a reason for each of the others is appended.

    Hydra stops at the first bad override; trying them one after another finds them all.
    """
    try:
        return compose(overrides), overrides
    except COMPOSING:
        groups = [text for text in overrides if _is_group(text, compose)]
        values = [text for text in overrides if text not in groups]  # which may belong to a chosen part
    cfg, accepted = _composed(compose, groups, problems) if values else (compose([]), [])
    for text in values or groups:
        problem = None if _is_group(text, compose) else _key_problem(text, cfg)
        if problem is None:
            try:
                cfg, accepted = compose([*accepted, text]), [*accepted, text]
                continue
            except COMPOSING as error:
                problem = f"Expected a value that fits, got '{text}': {first_line(error)}."
        problems.append(problem)
    return cfg, accepted


def _is_group(text: str, compose: Compose) -> bool:
    name = text.split("=", 1)[0].split("@", 1)[0]  # strategy@strategy.first=badge: a choice for a place inside
    return not name.startswith("hydra") and compose.has_group(name)


def _choices(override: Override) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [str(override.value())]


def _group_problem(override: Override, compose: Compose) -> str | None:
    group = str(override.key_or_group)
    options = compose.options(group)
    if override.is_delete():
        return f"Expected a choice for {group}, got '{override.input_line}'; choose one of {', '.join(options)}."
    for choice in _choices(override):
        if choice not in options:
            choice = "null" if choice == "None" else choice
            hint = did_you_mean(choice, options)
            listed = f"{hint} The choices are" if hint else "; choose one of"
            return f"Expected a choice for {group}, got '{choice}'{listed} {', '.join(options)}."
    return None


def _key_problem(text: str, cfg: DictConfig) -> str | None:
    """An option that does not exist. Parts know whether they take what `+key=value` adds."""
    key = text.removeprefix("~").split("=", 1)[0]
    if key.startswith(("+", "hydra")):
        return None
    known = dict.fromkeys(_keys(OmegaConf.to_container(without_hydra(cfg), resolve=False)))
    if key in known:
        return None
    group, leaf = key.split(".", 1)[0], key.rsplit(".", 1)[-1]
    inside = [name for name in known if name.startswith(f"{group}.")]
    same_leaf = [name for name in inside or known if name.rsplit(".", 1)[-1] == leaf]
    if len(same_leaf) == 1:
        hint = f"; did you mean '{same_leaf[0]}'?"
    elif inside:
        within = [name.removeprefix(f"{group}.") for name in inside if name.rsplit(".", 1)[-1] not in RESERVED]
        options = [name for name in within if "." not in name]
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
