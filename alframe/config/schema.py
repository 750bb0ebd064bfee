"""What the loop reads beside the parts, and how configs are composed. Constants that the other files of this room share."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alframe.errors import ConfigError, expect
from alframe.verbs import listed

_PACKAGE = Path(__file__).parent.parent
_INSIDE = _PACKAGE / "configs"  # in a wheel; in a checkout they lie at the top level
CONFIGS = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent / "configs"
GROUPS = ("dataset", "model", "trainer", "uncertainty", "strategy", "budget", "annotator")
OPTIONAL_GROUPS = ("shift",)
"""Parts that may be absent. They enter a run's identity only if present, so that runs without them keep theirs."""
NO_PRESET = ("experiment=null", "debug=null")
"""Defaults that Hydra does not accept as overrides."""
NOT_IN_IDENTITY = (
    *("device", "threads", "progress", "traceback", "resident_bytes", "cache", "run"),
    *("query.max_bytes", "query.batch_size"),
)
"""Options that cannot change a result: kept out of the run's config, free to differ between launches."""
COMPOSING = (HydraException, OmegaConfBaseException)
RESERVED = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


@dataclass
class RunOptions:
    name: str | None = None
    root: str = "runs"
    overwrite: bool = False
    tensorboard: bool = True
    checkpoint: bool = False
    maps: bool = True
    profile: bool = False


@dataclass
class QueryOptions:
    max_bytes: int = 1 << 30
    batch_size: int = 256
    target: str = "pool"
    target_size: int = 500


@dataclass
class CostOptions:
    miss: float = 10.0
    false_alarm: float = 1.0


@dataclass
class Schema:
    """What the loop reads; the groups are checked against the signatures of their `_target_`."""

    dataset: Any = None
    model: Any = None
    trainer: Any = None
    uncertainty: Any = None
    strategy: Any = None
    budget: Any = None
    annotator: Any = None
    shift: Any = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    progress: bool = True
    traceback: bool = False
    resident_bytes: int = 4 << 30
    cache: str | None = None
    run: RunOptions = field(default_factory=RunOptions)
    query: QueryOptions = field(default_factory=QueryOptions)
    costs: CostOptions = field(default_factory=CostOptions)


ConfigStore.instance().store(name="schema", node=Schema)
OmegaConf.register_new_resolver("alframe.verbs", listed, replace=True)  # for alframe --help


@dataclass
class Compose:
    """`compose(overrides)`: the whole config."""

    def __call__(self, overrides: list[str]) -> DictConfig:
        return hydra.compose("config", overrides, return_hydra_config=True)

    def options(self, group: str) -> list[str]:
        """The choices of a group."""
        return GlobalHydra.instance().config_loader().get_group_options(group)

    def has_group(self, name: str) -> bool:
        """Whether a name is that of a group, ours or a user's."""
        return (CONFIGS / name).is_dir() or bool(self.options(name))


@contextmanager
def composer(folders: Iterable[str] = ()) -> Iterator[Compose]:
    """`with composer() as compose: cfg = compose(overrides)`, as often as needed; leaves Hydra's global state as it found it.

    `folders` have YAML files of the user's own, in the same groups: paths, or `file://` and `pkg://` as in `hydra.searchpath`.
    Raises `ConfigError` for a folder that does not exist.
    """
    search = create_config_search_path(str(CONFIGS))
    for folder in folders:
        path = folder.removeprefix("file://")
        if not folder.startswith("pkg://"):
            expect(
                Path(path).expanduser().is_dir(),
                f"Expected a folder of YAML files in --config-dir or hydra.searchpath, got '{path}', which does not exist.",
                ConfigError,
            )
            folder = f"file://{Path(path).expanduser().resolve()}"
        search.prepend("alframe", folder, anchor="schema")
    version.setbase("1.3")
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        Hydra.create_main_hydra2(task_name="alframe", config_search_path=search)
        yield Compose()
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = before


def first_line(error: BaseException) -> str:
    """The reason for an error in one line: Hydra wraps errors, and the innermost cause says it best."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def plain(cfg: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def groups_of(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups that a composed config chooses parts from."""
    return (*GROUPS, *(group for group in OPTIONAL_GROUPS if tree.get(group)))


def without_hydra(cfg: DictConfig) -> DictConfig:
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    container.pop("hydra", None)
    return OmegaConf.create(container)
