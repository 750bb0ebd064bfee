"""alframe: deep active learning for images.

From Python, without configs: build an `Experiment` and `run` it in a folder, or `fit` once (`alframe.api`).
With configs, as on the command line: `launch("dataset=elpv", "strategy=margin")`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alframe.api import fit, run
    from alframe.cli import launch
    from alframe.experiment import Experiment

__version__ = "0.1.0"
__all__ = ["Experiment", "fit", "launch", "run"]

_HOMES = {
    "Experiment": "alframe.experiment",
    "fit": "alframe.api",
    "run": "alframe.api",
    "launch": "alframe.cli",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import alframe` itself stays fast."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'alframe' has no attribute '{name}'")
