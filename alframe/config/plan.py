"""A checked experiment that has not read its data: its parts, its folder, and everything that can change its result."""

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra._internal.utils import _locate
from omegaconf import DictConfig

from alframe.config.parts import INJECTED, assemble, pick_device
from alframe.config.schema import NOT_IN_IDENTITY, OPTIONAL_GROUPS, groups_of, plain
from alframe.dataset.base import Dataset
from alframe.dataset.cache import default_cache
from alframe.dataset.files import load_unlabelled
from alframe.dataset.shift import Shifted
from alframe.errors import ConfigError
from alframe.experiment import Experiment
from alframe.images import Data
from alframe.learner import POOL, TARGET, TEST
from alframe.metrics import Costs
from alframe.storage import GOES_ON
from alframe.trainer.trainer import Trainer

IN_EVERY_CELL = ("dataset", "model", "uncertainty", "strategy")
CELL_LENGTH = 80
FAST_PATHS = 1
"""Version of the rules that choose how draws and ensembles are computed (`method: auto`); raise it when one changes."""


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

    def experiment(self, data: Data) -> Experiment:
        query = self.options["query"]
        target, images = query["target"], None
        if target not in (POOL, TEST):  # a folder, read only for strategies that use it
            folder, target = Path(target).expanduser().resolve(), TARGET
            if "target" in self.parts["strategy"].needs:
                images = load_unlabelled(folder, data.pool, self.cache)
        return Experiment(
            data=data,
            build_network=self.parts["model"],
            trainer=self.parts["trainer"],
            uncertainty=self.parts["uncertainty"],
            strategy=self.parts["strategy"],
            annotator=self.parts["annotator"],
            budget=self.parts["budget"],
            costs=Costs(**self.options["costs"]),
            seed=self.seed,
            device=self.device,
            cache=self.cache,
            batch_size=query["batch_size"],
            max_bytes=query["max_bytes"],
            target=target,
            target_images=images,
            target_size=query["target_size"],
            resident_bytes=self.options["resident_bytes"],
            show_progress=self.options["progress"],
        )


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Plan:
    """Construct every part. Raises `ConfigError` with every mistake."""
    parts, problems = assemble(cfg)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
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
    """Everything that can change a result, and the choices it came from."""
    groups = groups_of(tree)
    absent = set(OPTIONAL_GROUPS) - set(groups)
    identity = {"choices": dict(choices), **{key: tree[key] for key in tree if key not in {*NOT_IN_IDENTITY, *absent}}}
    identity |= {group: {**_defaults(tree[group], group), **tree[group]} for group in groups}
    for part in ("query", "annotator"):
        identity[part] = {key: value for key, value in identity[part].items() if f"{part}.{key}" not in NOT_IN_IDENTITY}
    channels_last = device.type == "cuda" if trainer.channels_last is None else trainer.channels_last
    identity["resolved"] = {  # depends on the device, and changes results by more than rounding
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
    """The options of a part that its node leaves at the constructor's defaults."""
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

    Options that may change on resume (`storage.GOES_ON`) are left out: the run resumes in the same folder.
    """
    name = "-".join(str(choices[group]) for group in IN_EVERY_CELL)
    quiet = (*NOT_IN_IDENTITY, *GOES_ON, "seed", "experiment", "hydra")
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
