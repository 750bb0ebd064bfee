"""The plan of a run that is there already, from the config in its folder."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alframe.config.plan import Plan, build
from alframe.config.schema import Schema
from alframe.record.read import read_config

DERIVED = ("choices", "resolved")
"""What a run's config says of how it came about: no options."""


def stored_plan(folder: Path, **options: Any) -> Plan:
    """The plan that `folder` was run by, on what `options` say of the launch (`device`, `threads`, `progress`, ...).

    The pool is the target set, whatever it was: that decides queries alone, and its folder may be gone. Raises
    `RunFolderError` for a folder without a run's config, `ConfigError` where its parts cannot be built any more.
    """
    identity = read_config(folder)
    tree = {**asdict(Schema()), **{key: value for key, value in identity.items() if key not in DERIVED}, **options}
    tree["query"] = {**asdict(Schema())["query"], **(identity.get("query") or {}), "target": "pool"}
    return replace(build(OmegaConf.create(tree), identity.get("choices") or {}, []), folder=folder)
