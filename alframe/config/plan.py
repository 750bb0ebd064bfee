"""A checked experiment that has not read its data: its parts, its folder, and all that can change its result."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from alframe.annotator.base import Annotator
from alframe.clock import Clock
from alframe.config.overrides import check_overrides
from alframe.config.parts import INJECTED, assemble, pick_device
from alframe.config.schema import NO_PRESET, OPTIONAL_GROUPS, composer, groups_of, plain, without_hydra
from alframe.dataset.base import Dataset
from alframe.dataset.cache import default_cache
from alframe.dataset.files import load_unlabelled
from alframe.dataset.growing import Growing
from alframe.dataset.shift import Shifted
from alframe.errors import ConfigError, RunFolderError
from alframe.experiment import Experiment
from alframe.images import Data
from alframe.learner import POOL, TARGET, TEST, Resources
from alframe.metrics import Costs
from alframe.part import Declared, declared, part_class
from alframe.query import TargetSet
from alframe.record.layout import CONFIG, Layout
from alframe.record.read import read_config
from alframe.trainer.trainer import Trainer

IN_EVERY_CELL = ("dataset", "model", "uncertainty", "strategy")
NO_RESULT = (
    "device",
    "threads",
    "progress",
    "traceback",
    "resident_bytes",
    "cache",
    "run",
    "query.max_bytes",
    "query.batch_size",
)
"""Options that cannot change a result: kept out of the run's config, free to differ between launches."""
CELL_LENGTH = 80
FAST_PATHS = 1
"""Which rules choose how draws and ensembles are computed (`method: auto`), by device and network; raise it when one changes."""


@dataclass(frozen=True)
class Plan:
    """A checked and built experiment that has not read its data."""

    dataset: Dataset
    parts: dict[str, Any]
    folder: Path
    identity: dict[str, Any]
    cache: Path
    device: torch.device
    seed: int
    options: dict[str, Any]

    @property
    def declared(self) -> Declared:
        """What the parts declare about options, and whether people answered in the run that is in the folder already."""
        count_validation = self.parts["budget"].count_validation
        return declared(self.parts, count_validation=count_validation, has_answers=people_answered)

    def experiment(self, data: Data, photos: Growing | None = None, clock: Clock | None = None) -> Experiment:
        query = self.options["query"]
        name, images = query["target"], None
        if name not in (POOL, TEST):  # a folder, which is read only for a strategy that asks about it
            folder, name = Path(name).expanduser().resolve(), TARGET
            if "target" in self.parts["strategy"].needs:
                images = load_unlabelled(folder, data.pool, self.cache)
        resources = Resources(
            self.device,
            self.cache,
            query["batch_size"],
            query["max_bytes"],
            self.options["resident_bytes"],
            self.options["progress"],
            clock or Clock(),
        )
        parts = {name: part for name, part in self.parts.items() if name not in ("dataset", "shift")}
        return Experiment(
            data,
            **parts,
            costs=Costs(**self.options["costs"]),
            seed=self.seed,
            target_set=TargetSet(name, query["target_size"], images),
            resources=resources,
            photos=photos,
        )


def stored_annotator(config: Mapping[str, Any]) -> Annotator:
    """The annotator of a stored config. Raises `RunFolderError` where it cannot be built."""
    node = config.get("annotator")
    try:
        annotator = hydra.utils.instantiate(node, _convert_="all") if isinstance(node, Mapping) else node
    except InstantiationException as error:
        raise RunFolderError(f"Expected an annotator in the run's config, got {node}; restore its {CONFIG}.") from error
    if not isinstance(annotator, Annotator):
        raise RunFolderError(f"Expected an annotator in the run's config, got {node}; restore its {CONFIG}.")
    return annotator


def people_answered(folder: Path) -> bool:
    """Whether people have answered anything in a run's folder. Of a folder that says no more who was asked, whether anyone was."""
    try:
        return stored_annotator(read_config(folder)).has_answers(folder)
    except RunFolderError:
        return bool(Layout(folder).places())


def load(overrides: Iterable[str] = (), config_dir: str | None = None) -> Plan:
    """The plan for a list of overrides, as on the command line. Raises `ConfigError` with every mistake."""
    overrides = [text for text in overrides if text not in NO_PRESET]
    with composer(config_dir) as compose:
        check_overrides(overrides, compose, multirun=False)
        cfg = compose(overrides)
        choices, tasks = dict(cfg.hydra.runtime.choices), list(cfg.hydra.overrides.task)
    return build(without_hydra(cfg), choices, tasks)


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Plan:
    """Construct every part. Raises `ConfigError` with every mistake."""
    parts, problems = assemble(cfg)
    if problems:
        raise ConfigError("\n".join(problems))
    tree = plain(cfg)
    device = pick_device(tree["device"])
    cache = Path(tree["cache"]).expanduser() if tree["cache"] else default_cache()
    run = tree["run"]
    study = run["name"] or choices.get("experiment") or choices.get("dataset")
    choices = {group: choices.get(group) for group in groups_of(tree)}
    dataset = Shifted(parts["dataset"], parts["shift"]) if "shift" in parts else parts["dataset"]
    folder = Path(run["root"]).expanduser() / str(study) / cell_name(choices, overrides) / f"seed={tree['seed']}"
    return Plan(
        dataset=dataset,
        parts=parts,
        folder=folder,
        identity=_identity(tree, choices, parts["trainer"], device),
        cache=cache,
        device=device,
        seed=tree["seed"],
        options={
            **run,
            "query": tree["query"],
            "costs": tree["costs"],
            **{key: tree[key] for key in ("progress", "resident_bytes", "threads", "traceback")},
        },
    )


def _identity(
    tree: Mapping[str, Any], choices: Mapping[str, Any], trainer: Trainer, device: torch.device
) -> dict[str, Any]:
    """All that can change a result, and how it was chosen."""
    groups = groups_of(tree)
    absent = set(OPTIONAL_GROUPS) - set(groups)
    identity = {"choices": dict(choices), **{key: tree[key] for key in tree if key not in {*NO_RESULT, *absent}}}
    identity |= {group: {**_defaults(tree[group], group), **tree[group]} for group in groups}
    identity["query"] = {key: value for key, value in identity["query"].items() if f"query.{key}" not in NO_RESULT}
    for group in groups:
        left_out = part_class(_locate(tree[group]["_target_"])).not_in_identity
        identity[group] = {key: value for key, value in identity[group].items() if key not in left_out}
    channels_last = device.type == "cuda" if trainer.channels_last is None else trainer.channels_last
    identity["resolved"] = {  # what follows the device, and changes results by more than rounding
        "precision": str(trainer._dtype(device)).removeprefix("torch."),
        "channels_last": channels_last,
        "fast_paths": f"{device.type}, {FAST_PATHS}",
    }
    weights = str(identity["model"].get("weights"))
    if Path(weights).is_file():  # a file's content counts, not its name
        with open(weights, "rb") as file:
            identity["resolved"]["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return identity


def _defaults(node: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The options of a part that its node leaves to the constructor."""
    try:
        parameters = inspect.signature(_locate(node["_target_"])).parameters
    except (TypeError, ValueError):
        return {}
    plain = (str, int, float, bool, list, type(None))
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if isinstance(parameter.default, plain) and name not in INJECTED.get(group, ())
    }


def cell_name(choices: Mapping[str, Any], overrides: Iterable[str]) -> str:
    """A folder name for one cell of a study: the choices of the main groups, then every other override that can change a result.

    What a run may be given other values of is left out (`storage.GOES_ON`): it goes on in its folder.
    """
    name = "-".join(str(choices[group]) for group in IN_EVERY_CELL)
    quiet = (
        *NO_RESULT,
        "budget.rounds",
        "annotator.new_classes",
        "annotator.quorum",
        "annotator.separator",
        "annotator.show_prediction",
        "seed",
        "experiment",
        "hydra",
    )
    others = []
    for text in sorted(overrides):
        key = text.lstrip("+~").split("=", 1)[0]
        if key not in IN_EVERY_CELL and not any(
            key == option or key.startswith((f"{option}.", f"{option}/")) for option in quiet
        ):
            others.append(text)
    full = ",".join([name, *others]).replace("/", ".").replace(" ", "")
    if len(full) <= CELL_LENGTH:
        return full
    return f"{full[: CELL_LENGTH - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
