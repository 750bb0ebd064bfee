"""From YAML and overrides to built parts: schema, checks, construction. With the command line, the only importer of hydra.

All mistakes are reported together, before any data is read. Nothing below this room ever sees a config object.
"""

from alframe.config.overrides import check_overrides
from alframe.config.parts import assemble, pick_device
from alframe.config.plan import Plan, build, cell_name, load, stored_annotator
from alframe.config.schema import COMPOSING, CONFIGS, NO_PRESET, composer, first_line
from alframe.config.stored import stored_plan

__all__ = [
    "COMPOSING",
    "CONFIGS",
    "NO_PRESET",
    "Plan",
    "assemble",
    "build",
    "cell_name",
    "check_overrides",
    "composer",
    "first_line",
    "load",
    "pick_device",
    "stored_annotator",
    "stored_plan",
]
