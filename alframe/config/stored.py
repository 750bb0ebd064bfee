"""The plan of an existing run, from the config in its folder."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alframe.config.overrides import parse
from alframe.config.schema import NOT_IN_IDENTITY, RunOptions, Schema, first_line
from alframe.errors import ConfigError, RunFolderError
from alframe.storage import GOES_ON

if TYPE_CHECKING:
    from alframe.config.plan import Plan

DERIVED = ("choices", "resolved")
"""Entries of a run's config that record how it came about: not options."""
ON_RESUME = (
    *(key for key in NOT_IN_IDENTITY if key != "run"),
    *(f"run.{key}" for key in asdict(RunOptions()) if key not in ("name", "root", "overwrite")),
    *GOES_ON,
)
"""Options that a run can resume with; all others are fixed by its config."""


def resume_options(overrides: Iterable[str]) -> dict[str, Any]:
    """Option: value, for `stored_plan`. Raises `ConfigError` for what cannot be read, and for options that resuming cannot change."""
    problems: list[str] = []
    parsed = parse(overrides, problems)
    fits = [each.key_or_group in ON_RESUME and not each.is_delete() and not each.is_sweep_override() for each in parsed]
    if not all(fits):
        refused = ", ".join(str(each.input_line) for each, fit in zip(parsed, fits, strict=True) if not fit)
        problems.append(
            f"Expected options that a run can resume with, got {refused}; its config.yaml fixes all but {', '.join(ON_RESUME)}."
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return {str(override.key_or_group): override.value() for override in parsed}


def stored_plan(folder: Path, **options: Any) -> "Plan":
    """The plan of the run in `folder`, wherever that lies now, with `options` by their dotted names (`device`, `budget.rounds`, ...).

    Without a `device` it is the kind that the run began on, since results depend on it. Raises `RunFolderError` for a folder without
    a run's config, `ConfigError` if an option does not fit or a part cannot be built any more.
    """
    identity = read_config(folder)
    tree = {**asdict(Schema()), **{key: value for key, value in identity.items() if key not in DERIVED}}
    began = (identity.get("resolved") or {}).get("fast_paths", tree["device"])  # "cpu, 1"; configs of old lack it
    tree["device"] = str(began).split(",", 1)[0]
    tree["query"] = {**asdict(Schema())["query"], **(identity.get("query") or {})}
    cfg = OmegaConf.create(tree)
    types = OmegaConf.structured(Schema)
    for key, value in options.items():
        try:
            OmegaConf.update(types, key, value, force_add=True)  # as strict as Hydra about a text for a number
            OmegaConf.update(cfg, key, OmegaConf.select(types, key), force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"Expected a value that fits, got '{key}={value}': {first_line(error)}.") from error
    from alframe.config.plan import build

    return replace(build(cfg, identity.get("choices") or {}, []), folder=folder)


def read_config(folder: Path) -> dict[str, Any]:
    """Everything that can change the result of the run in `folder`, as plain values. Raises `RunFolderError`."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"Expected a run's config in {path}, got {type(error).__name__}; name a folder such as runs/<study>/<cell>/seed=0."
        ) from error
    if not isinstance(config, dict) or "dataset" not in config:
        raise RunFolderError(f"Expected a run's config in {path}, got something else; restore the file.")
    return config
