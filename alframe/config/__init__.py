"""From YAML and overrides to built parts: schema, checks, construction. The only importer of hydra.

All errors are reported together, before any data is read. Nothing below this room ever sees a config object.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alframe.config.overrides import check_overrides as check_overrides
    from alframe.config.overrides import load as load
    from alframe.config.parts import pick_device as pick_device
    from alframe.config.plan import Plan as Plan
    from alframe.config.plan import build as build
    from alframe.config.plan import cell_name as cell_name
    from alframe.config.schema import CONFIGS as CONFIGS
    from alframe.config.schema import composer as composer
    from alframe.config.stored import stored_plan as stored_plan

_HOMES = {
    "overrides": ("check_overrides", "load"),
    "parts": ("pick_device",),
    "plan": ("Plan", "build", "cell_name"),
    "schema": ("CONFIGS", "composer"),
    "stored": ("stored_plan",),
}


def __getattr__(name: str) -> Any:
    """Import on first use: a misspelt option is found without torch, which takes seconds to import."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"alframe.config.{home}"), name)
    raise AttributeError(f"module 'alframe.config' has no attribute '{name}'")
