"""alframe: deep active learning for images.

From Python, without configs: build an `Experiment` and `run` it in a folder, or `fit` once (`alframe.api`).
Images from elsewhere: `from_dataset` (torchvision's and the like), `from_table` (paths and labels), `from_hugging_face`.
With configs, as on the command line: `launch("dataset=elpv", "strategy=margin")`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alframe.api import fit, run
    from alframe.cli import launch
    from alframe.dataset.hugging_face import from_hugging_face
    from alframe.dataset.items import from_dataset
    from alframe.dataset.table import from_table
    from alframe.experiment import Experiment

__version__ = "0.1.0"
__all__ = ["Experiment", "fit", "from_dataset", "from_hugging_face", "from_table", "launch", "run"]

_HELPERS = {"import_module", "TYPE_CHECKING", "Any"}
_HOMES = {
    "Experiment": "alframe.experiment",
    "fit": "alframe.api",
    "run": "alframe.api",
    "launch": "alframe.cli",
    "from_dataset": "alframe.dataset.items",
    "from_table": "alframe.dataset.table",
    "from_hugging_face": "alframe.dataset.hugging_face",
}


def __dir__() -> list[str]:
    """What `import alframe` gives: the whole of it, imported or not."""
    return sorted({*__all__, *(name for name in globals() if not name.startswith("_")), "__version__"} - _HELPERS)


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import alframe` itself stays fast."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'alframe' has no attribute '{name}'")
