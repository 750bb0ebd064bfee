"""The plan of an existing run, from the config in its folder."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alframe.config.overrides import parse
from alframe.config.schema import NOT_IN_IDENTITY, RunOptions, Schema, first_line, plain
from alframe.errors import ConfigError, RunFolderError, expect
from alframe.record.read import read_config

if TYPE_CHECKING:
    from alframe.config.plan import Plan

FIXED = ("run.name", "run.root", "run.overwrite")
ON_RESUME = (
    *(key for key in NOT_IN_IDENTITY if key != "run"),
    *(f"run.{key}" for key in asdict(RunOptions()) if f"run.{key}" not in FIXED),
)
"""Options that every run can resume with, beside those that its parts declare; all others are fixed by its config."""


def resume_options(overrides: Iterable[str]) -> dict[str, Any]:
    """Option: value, for `stored_plan`. Raises `ConfigError` for what is not an option with one value."""
    problems: list[str] = []
    parsed = parse(overrides, problems)
    problems += [
        f"Expected an option with one value, got '{override.input_line}'."
        for override in parsed
        if override.is_delete() or override.is_sweep_override()
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return {str(override.key_or_group): override.value() for override in parsed}


def stored_plan(folder: Path, **options: Any) -> "Plan":
    """The plan of the run in `folder`, wherever that lies now, with `options` by their dotted names (`device`, `budget.rounds`, ...).

    Without a `device` it is the kind that the run began on, since results depend on it. Raises `RunFolderError` for a folder without
    a run's config, `ConfigError` for an option that a run cannot resume with or that does not fit, or if a part cannot be built any more.
    """
    identity = read_config(folder)
    dataset = identity.get("dataset")
    expect(
        isinstance(dataset, dict) and "_target_" in dataset,
        f"Expected a run that a command started, got {folder}, whose dataset no config names; if Python started it, call alframe.run again.",
        RunFolderError,
    )
    from alframe.config.kept import DERIVED, continued, may_change
    from alframe.config.plan import plan_in

    tree = {**asdict(Schema()), **{key: value for key, value in identity.items() if key not in DERIVED}}
    began = (identity.get("resolved") or {}).get("fast_paths", tree["device"])  # "cpu, 1"; early configs lack it
    tree["device"] = str(began).split(",", 1)[0]
    tree["query"] = {**asdict(Schema())["query"], **(identity.get("query") or {})}
    allowed = [*ON_RESUME, *(key for key in may_change(tree) if key not in NOT_IN_IDENTITY)]
    if refused := [f"{key}={value}" for key, value in options.items() if key not in (*allowed, "query.target")]:
        raise ConfigError(
            f"Expected options that a run can resume with, got {', '.join(refused)}; its config fixes all but {', '.join(allowed)}."
        )
    types = OmegaConf.structured(Schema)
    try:
        cfg = OmegaConf.merge(types, tree)
        assert isinstance(cfg, DictConfig)
        plain(cfg)
    except OmegaConfBaseException as error:
        raise RunFolderError(
            f"Expected a config that can be read in {folder}, got: {first_line(error)}; restore it from a backup."
        ) from error
    for key, value in options.items():
        try:
            OmegaConf.update(types, key, value, force_add=True)  # as strict as Hydra about a text for a number
            OmegaConf.update(cfg, key, OmegaConf.select(types, key), force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"Expected a value that fits, got '{key}={value}': {first_line(error)}.") from error
    return plan_in(
        folder, OmegaConf.create(continued(plain(cfg), identity, set(options))), identity.get("choices") or {}
    )
