"""A checked experiment that has not read its data: its parts, its folder, and everything that can change its result."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from alframe.clock import Clock
from alframe.config.kept import continued, defaults, given, located, may_change, part_classes, places
from alframe.config.own_code import OWN, named_by_class
from alframe.config.parts import assemble, pick_device
from alframe.config.schema import NOT_IN_IDENTITY, OPTIONAL_GROUPS, groups_of, plain
from alframe.dataset.base import Dataset
from alframe.dataset.cache import default_cache
from alframe.dataset.files import load_unlabelled
from alframe.dataset.growing import Growing
from alframe.dataset.shift.base import Shifted
from alframe.errors import ConfigError, RunFolderError, expect
from alframe.experiment import Experiment, declared_by
from alframe.images import Data
from alframe.learner import POOL, TARGET, TEST, Resources
from alframe.metrics import Costs
from alframe.part import Declared
from alframe.query import TargetSet
from alframe.record.layout import Layout
from alframe.record.read import flat, read_config
from alframe.trainer.base import Fitter

IN_EVERY_CELL = ("dataset", "model", "uncertainty", "strategy")
DEFAULTS = {"dataset": "defects", "model": "small_cnn", "uncertainty": "mc_dropout", "strategy": "least_confidence"}
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

    declared: Declared
    kept: str = ""
    """What the run keeps of its folder against the defaults of now, in a line for a person."""

    def experiment(self, data: Data, photos: Growing | None = None, clock: Clock | None = None) -> Experiment:
        query = self.options["query"]
        name, images = query["target"], None
        if name not in (POOL, TEST):  # a folder, read only for strategies that use it
            folder, name = Path(name).expanduser().resolve(), TARGET
            if "target" in self.parts["strategy"].needs:
                images = load_unlabelled(folder, data.pool, self.cache)
        sizes = query["batch_size"], query["max_bytes"], self.options["resident_bytes"]
        return Experiment(
            data,
            **{group: part for group, part in self.parts.items() if group not in ("dataset", "shift")},
            costs=Costs(**self.options["costs"]),
            seed=self.seed,
            target_set=TargetSet(name, query["target_size"], images),
            resources=Resources(self.device, self.cache, *sizes, self.options["progress"], clock or Clock()),
            photos=photos,
        )


def build(cfg: DictConfig, choices: Mapping[str, Any], overrides: list[str]) -> Plan:
    """Construct every part. Where the run has a folder already, options that are not given keep its values.

    Raises `ConfigError` with every mistake, `RunFolderError` for a folder whose config is damaged.
    """
    try:
        tree = plain(cfg)
        folder = _folder(tree, choices, overrides)
    except Exception:  # something is wrong with the config: checks say what
        return plan_in(None, cfg, choices)
    if Layout(folder).config.is_file() and not tree["run"]["overwrite"]:
        stored = read_config(folder)
        known = stored.get("choices") or {}
        expect(
            known.get("experiment", choices.get("experiment")) == choices.get("experiment"),
            f"Expected the preset that {folder} began with, experiment={known.get('experiment')}, got {choices.get('experiment')}; "
            "use another run.name, or start again with run.overwrite=true.",
            RunFolderError,
        )
        merged = continued(tree, stored, given(overrides))
        plan = plan_in(folder, OmegaConf.create(merged), {**choices, **known})
        return replace(plan, kept=_kept(flat(tree), flat(merged), plan.declared.added))
    return plan_in(folder, cfg, choices)


def _kept(now: Mapping[str, Any], kept: Mapping[str, Any], absent: Mapping[str, Any]) -> str:
    """The options whose default has another value by now than in the folder, in a line; empty if there are none."""
    old = {key: kept.get(key, absent.get(key)) for key in {**now, **kept}}
    differ = [f"{key}={value} (by default {now.get(key)} now)" for key, value in old.items() if value != now.get(key)]
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    return f"keeps what the run began with: {', '.join(differ[:3])}{more}" if differ else ""


def plan_in(folder: Path | None, cfg: DictConfig, choices: Mapping[str, Any]) -> Plan:
    """The plan of a whole config, to be executed in `folder`. Raises `ConfigError` with every mistake."""
    parts, problems = assemble(cfg)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    assert folder is not None, "a config that has no folder has mistakes"
    tree = plain(cfg)
    device = pick_device(tree["device"])
    return Plan(
        dataset=Shifted(parts["dataset"], parts["shift"]) if "shift" in parts else parts["dataset"],
        parts=parts,
        folder=folder,
        identity=_identity(tree, choices, parts["trainer"], device),
        cache=Path(tree["cache"]).expanduser() if tree["cache"] else default_cache(),
        device=device,
        seed=tree["seed"],
        options={
            **tree["run"],
            "query": tree["query"],
            "costs": tree["costs"],
            **{key: tree[key] for key in ("progress", "resident_bytes", "threads", "traceback")},
        },
        declared=declared_by(parts, {group: located(tree[group]) for group in groups_of(tree)}),
    )


def _folder(tree: Mapping[str, Any], choices: Mapping[str, Any], overrides: list[str]) -> Path:
    """Where a run lies: its study, its cell, its seed. A run that began where an earlier version put it stays there."""
    root, seed = Path(tree["run"]["root"]).expanduser(), f"seed={tree['seed']}"
    named_so = named_by_class(choices, tree)
    study = str(tree["run"]["name"] or choices.get("experiment") or named_so.get("dataset"))
    kind = part_classes(tree)["dataset"]
    by_preset = tree["run"]["name"] or (choices.get("experiment") and "dataset.root" not in given(overrides))
    named = kind.study(tree["dataset"]) if issubclass(kind, Dataset) and not by_preset else None
    shown = {key: _shown(tree, key) for key in places(tree)}
    changeable = set(may_change(tree))
    own = {f"{group}._target_" for group in IN_EVERY_CELL if choices.get(group) == OWN}  # in the cell's name already
    now = root / (named or study) / cell_name(named_so, overrides, {*changeable, *own}, shown) / seed
    if now.exists():
        return now
    # Before model=frozen chose trainer and uncertainty itself, the same command began in another folder.
    chosen = {text.split("=", 1)[0] for text in overrides} & {"trainer", "uncertainty", "experiment"}
    frozen = choices.get("trainer") == "bayes_linear" and not chosen
    former = [choices, *([{**choices, "uncertainty": "mc_dropout"}] if frozen else [])]
    # Before a class of the user's was a choice of its own, a command that named it was called by the default choice.
    former += [{**choices, **{group: of for group, of in DEFAULTS.items() if choices.get(group) == OWN}}] if own else []
    study = str(tree["run"]["name"] or choices.get("experiment") or choices.get("dataset"))
    begun = [root / (named or study) / cell_name(of, overrides, changeable, shown) / seed for of in former]
    begun += [root / study / cell_name(of, overrides, changeable - {*shown}) / seed for of in former]
    return next((folder for folder in begun if folder.exists()), now)


def _shown(tree: Mapping[str, Any], key: str) -> str:
    """What stands in a cell's name for the place of files: eight digits of a file's hash, a folder's last name, any other value itself.

    Nothing for the dataset's, which gives the study its name or is decided by the dataset.
    """
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    path = Path(str(value)).expanduser()
    if key == "dataset.root":
        return ""
    return _digest(path)[:8] if path.is_file() else path.name or str(value)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _identity(
    tree: Mapping[str, Any], choices: Mapping[str, Any], trainer: Fitter, device: torch.device
) -> dict[str, Any]:
    """Everything that can change a result, and the choices it came from."""
    groups = groups_of(tree)
    absent = set(OPTIONAL_GROUPS) - set(groups)
    identity: dict[str, Any] = {"choices": {group: choices.get(group) for group in groups}}
    if choices.get("experiment"):
        identity["choices"]["experiment"] = choices["experiment"]
    identity |= {key: value for key, value in tree.items() if key not in {*NOT_IN_IDENTITY, *absent}}
    identity["query"] = {key: value for key, value in tree["query"].items() if f"query.{key}" not in NOT_IN_IDENTITY}
    for group, kind in part_classes(tree).items():
        options = {**defaults(tree[group], group), **tree[group]}
        identity[group] = {key: value for key, value in options.items() if key not in kind.not_in_identity}
    channels_last = device.type == "cuda" if trainer.channels_last is None else trainer.channels_last
    identity["resolved"] = {  # depends on the device, and changes results by more than rounding
        "precision": str(trainer.dtype(device)).removeprefix("torch."),
        "channels_last": channels_last,
        "fast_paths": f"{device.type}, {FAST_PATHS}",
    }
    weights = Path(str(identity["model"].get("weights"))).expanduser()
    if weights.is_file():  # a file's content counts, not its name
        identity["resolved"]["weights"] = _digest(weights)
    return identity


def cell_name(
    choices: Mapping[str, Any],
    overrides: Iterable[str],
    changeable: Iterable[str] = NOT_IN_IDENTITY,
    places: Mapping[str, str] | None = None,
) -> str:
    """A folder name for one cell of a study: the choices of the main groups, then every other override that can change a result.

    Options that are `changeable` (`kept.may_change`) are left out: the run resumes in the same folder. `places`: what stands for
    the place of files, by option.
    """
    name = "-".join(str(choices[group]) for group in IN_EVERY_CELL)
    quiet, others = (*changeable, "seed", "experiment", "hydra"), []
    for text in sorted(overrides):
        key = text.lstrip("+~").split("=", 1)[0]
        if shown := (places or {}).get(key):
            others.append(f"{key}={shown}")
        elif key not in IN_EVERY_CELL and not any(
            key == option or key.startswith((f"{option}.", f"{option}/")) for option in quiet
        ):
            others.append(text)
    full = ",".join([name, *others]).replace("/", ".").replace(" ", "")
    if len(full) <= CELL_LENGTH:
        return full
    return f"{full[: CELL_LENGTH - 9]}-{hashlib.sha256(os.fsencode(full)).hexdigest()[:8]}"
