"""The networks of a run's last round: from its checkpoint, or trained again from its ledger. The run's folder is read, never written."""

import json
import math
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alframe.config import Plan, stored_plan
from alframe.consensus import Rules
from alframe.errors import DataError, RunFolderError
from alframe.experiment import Experiment, goes_on, learner_of, with_annotator, with_classes
from alframe.growth import photos_of
from alframe.handover.predictor import BATCH, Predictor, Tensors, flat
from alframe.handover.spec import SAME, STRETCH, Spec, describe
from alframe.learner import POOL, TEST, Learner
from alframe.metrics import evaluate
from alframe.pool import Ledger, Pool
from alframe.storage import read_json
from alframe.trainer.trainer import Examples

TOLERANCE = 1e-3
"""Largest difference of a test metric from the stored one (relative above 1) that other threads or another device may make."""
AGREES, ROUNDED = 1e-5, 1e-2
"""Largest difference of a probability between the run's own networks and what is handed over: on images by a CPU; and where a GPU
rounds by the size of the batch, or features were computed by another device."""
CHECKED = 100

Line = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A run's round `line`, with the `learner` that holds its posterior. `how` and `difference` say how far it is the same.

    `experiment` has the classes that the round was trained with; `classes` has those too that people have found since.
    """

    folder: Path
    plan: Plan
    experiment: Experiment
    learner: Learner
    line: Line
    stopped: bool
    ledger: list[Line]
    rules: Rules
    how: str
    difference: float

    @property
    def round(self) -> int:
        return int(self.line["round"])

    @property
    def classes(self) -> tuple[str, ...]:
        return self.rules.classes or self.experiment.data.pool.classes


def read_lines(path: Path) -> list[Line]:
    """The whole lines of a JSON-lines file that another process may be writing: a torn last one is left where it is.

    Raises `RunFolderError` for other damage.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RunFolderError(
            f"Expected a run folder with {path.name}, got {path.parent} without it ({error.strerror}); let the run finish a round first."
        ) from error
    try:
        lines = [json.loads(text) for text in raw[: raw.rfind(b"\n") + 1].splitlines()]
        if all(isinstance(line, dict) for line in lines):
            return lines
    except ValueError:
        pass
    raise RunFolderError(f"Expected a JSON object in every line of {path}, got damage; restore it from a backup.")


def retrieve(folder: Path, *, device: str | None = None, progress: bool = True, accept: bool = False) -> Trained:
    """The posterior of the last committed round of the run in `folder`, checked against that round's test metrics.

    `device` null: that of the run's last launch, if this machine has it. Raises `RunFolderError` for a folder without a committed
    round, and where the metrics differ by more than `TOLERANCE`, unless told to `accept` that.
    """
    rounds = read_lines(folder / "rounds.jsonl") if (folder / "config.yaml").is_file() else []
    launch = _last_launch(folder)
    options = {"progress": progress, "device": device or _device_of(launch)}
    plan = stored_plan(
        folder, **options, **{"query.target": "pool"}
    )  # its folder may be gone, and it decides queries alone
    if not rounds:
        raise RunFolderError(
            f"Expected a run with a committed round in {folder}, got one with none; run it on, by the command it was started with."
        )
    torch.set_num_threads(int(launch.get("device", {}).get("threads", torch.get_num_threads())))
    line = rounds[-1]
    ledger = read_lines(folder / "ledger.jsonl")
    photos = photos_of(plan.dataset, folder, mend=False)
    data = plan.dataset.load(plan.cache) if photos is None else photos.data()
    experiment, _, rules = with_annotator(plan.experiment(data), folder, ledger)
    experiment = _as_trained(experiment, folder, int(line["round"]))
    as_trained = replace(
        rules, classes=experiment.data.pool.classes
    )  # a soft target has a number for each class of then
    learner, how = _learner(experiment, folder, ledger, as_trained, int(line["round"]))
    trained = Trained(folder, plan, experiment, learner, line, bool(line.get("stopped")), ledger, rules, how, 0.0)
    difference, worst = _difference(trained)
    if not difference <= TOLERANCE and not accept:
        raise RunFolderError(
            f"Expected the test metrics of round {line['round']} of {folder} to come out again ({how}), got {worst}; give back the data, "
            "versions and device of provenance.json, or take the model as it is by --accept-difference."
        )
    return replace(trained, difference=difference)


def _as_trained(e: Experiment, folder: Path, round: int) -> Experiment:
    """The experiment with as many classes as the networks of `round` have outputs: the config may have named others since."""
    stage = read_json(folder / "queries" / f"round_{round:03d}.json", ("evaluation", "questions")) or {}
    asked = next((q["probs"] for q in stage.get("questions", ()) if q["probs"]), e.data.pool.classes)
    measured = stage.get("evaluation") or {"classes": asked}  # without test images nothing is measured
    return with_classes(e, e.data.pool.classes[: len(measured["classes"])])


def capture(trained: Trained) -> tuple[Spec, Tensors]:
    """All that predicts like the run's posterior on raw images, checked on its first images. Raises `DataError` if it does not."""
    e, learner, config = trained.experiment, trained.learner, trained.plan.identity
    if len(e.data.pool.shape) != 3:
        raise DataError(
            f"Expected a run on images to hand over, got one on samples of shape {e.data.pool.shape}; predict features in Python, by alframe.Experiment."
        )
    model: Any = e.build_network
    on_features = hasattr(model, "on_features") and model.on_features(trained.round)
    front = {"mean": learner.prepare.mean, "deviation": learner.prepare.deviation}
    parts = {"front": {key: value for key, value in front.items() if value is not None}}
    if on_features:
        parts["front"] |= {f"embedder.{key}": value for key, value in model.embedder().state_dict().items()}
    for member, network in enumerate(learner.fitted.networks):
        parts[f"network.{member}"] = network.state_dict()
    parts["posterior"] = learner.fitted.state
    spec = Spec(
        classes=e.data.pool.classes,
        shape=e.data.pool.shape,
        resize=SAME if config["dataset"].get("size", 0) is None else STRETCH,
        normalization=learner.prepare.mode,
        model=config["model"],
        on_features=on_features,
        uncertainty=config["uncertainty"],
        members=len(learner.fitted.networks),
        augmentation=describe(e.data.augment) if e.uncertainty.n_views else None,
        run=_origin(trained, config),
    )
    tensors = {key: value.detach().cpu() for key, value in flat(parts).items()}
    apart = _check(trained, Predictor(spec, tensors, learner.device))
    return replace(spec, run={**spec.run, "predictions_differ_by": apart}), tensors


def images_to_check(e: Experiment) -> tuple[str, np.ndarray]:
    """The first test images, or of a run without any the first of the pool: which they are, and their pixels."""
    which, images = (TEST, e.data.test) if len(e.data.test) else (POOL, e.data.pool)
    return which, np.array(images.pixels[:CHECKED])


def _check(trained: Trained, predictor: Predictor) -> float:
    """The largest difference of a probability, what is handed over from the run's own networks, on images to check with."""
    which, pixels = images_to_check(trained.experiment)
    own = trained.learner.mean_log_probs(which, torch.arange(len(pixels))).exp()
    images = torch.from_numpy(pixels)
    apart = max(
        float((predictor.predict(batch).mean_log_probs.exp().cpu() - reference).abs().max())
        for batch, reference in zip(images.split(BATCH), own.split(BATCH), strict=True)
    )
    exact = predictor.device.type == "cpu" and not predictor.spec.on_features
    if not apart <= (AGREES if exact else ROUNDED):
        raise DataError(
            f"Expected the exported networks to predict like the run's, got probabilities that differ by {apart:.1g}; something in "
            f"{type(trained.learner.fitted.networks[0]).__name__} is not in its state_dict: register it as a buffer."
        )
    return apart


def _learner(e: Experiment, folder: Path, ledger: list[Line], rules: Rules, round: int) -> tuple[Learner, str]:
    """The learner with the posterior of `round`, and how it came to it."""
    checkpoint = folder / "checkpoint" / f"round_{round:03d}.safetensors"
    learner = learner_of(e, round)
    if checkpoint.is_file():
        learner.restore(checkpoint, *examples(e, ledger, rules, round), round)
        return learner, "from its checkpoint"
    begin, first = time.perf_counter(), round
    warm = e.trainer.warm_start
    while warm and goes_on(e, first) and not (folder / "checkpoint" / f"round_{first - 1:03d}.safetensors").is_file():
        first -= 1
    if warm and goes_on(e, first):
        learner.load_warm_start(folder / "checkpoint" / f"round_{first - 1:03d}.safetensors")
    for number in range(first, round + 1):
        learner.fit(*examples(e, ledger, rules, number), number)
    rounds = f"rounds {first} to {round}" if first < round else "it"
    return learner, f"no checkpoint: trained {rounds} again in {time.perf_counter() - begin:.1f} s"


def examples(e: Experiment, ledger: list[Line], rules: Rules, round: int) -> tuple[Examples, Examples]:
    """Training and validation images of a round, by the pool's own rules, from a copy of the ledger's lines up to it."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ledger.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in ledger if line.get("round", 0) <= round))
        with closing(Ledger(path)) as copy:
            n_classes = len(rules.classes) or e.data.pool.n_classes
            pool = Pool(e.data.pool.ids, copy, n_classes, e.budget.count_validation, rules)
            return pool.training(), pool.validation()


def _difference(trained: Trained) -> tuple[float, str]:
    """The largest difference of a metric from the stored one, and which it is; 0 where the run measured nothing."""
    e, stored = trained.experiment, trained.line
    of, which, rows, labels = "test", TEST, torch.arange(len(e.data.test)), torch.from_numpy(e.data.test.labels)
    if not len(rows):  # photos without a test set: what is known of the run's networks are their validation metrics
        held_out = examples(e, trained.ledger, trained.rules, trained.round)[1]
        of, which, rows, labels = "validation", POOL, held_out.rows, held_out.labels
    if not len(rows):
        return 0.0, "nothing that was measured"
    log_probs = trained.learner.mean_log_probs(which, rows, f"round {trained.round}: {of}")
    metrics = evaluate(log_probs, labels, e.data.pool.classes, e.costs).metrics
    apart = {
        name: abs(value - stored[f"{of}/{name}"]) / max(1.0, abs(stored[f"{of}/{name}"]))
        for name, value in metrics.items()
        if isinstance(stored.get(f"{of}/{name}"), int | float) and math.isfinite(stored[f"{of}/{name}"])
    }
    if not apart:
        return math.nan, "none to compare with"
    worst = max(apart, key=lambda name: apart[name])
    return apart[worst], f"{worst} {metrics[worst]:.4f} where rounds.jsonl has {stored[f'{of}/{worst}']:.4f}"


def _origin(trained: Trained, config: dict[str, Any]) -> dict[str, Any]:
    """The run's identity, and how good it was."""
    provenance = _provenance(trained.folder)
    return {
        "folder": str(trained.folder.resolve()),
        "dataset": trained.experiment.data.name,
        "data_hash": provenance.get("data_hash"),
        "seed": config.get("seed"),
        "choices": config.get("choices"),
        "round": trained.round,
        "labels": trained.line["labels"],
        "finished": trained.stopped,
        "weights": trained.how,
        "metrics_differ_by": trained.difference,
        "test": {key[5:]: value for key, value in trained.line.items() if key.startswith("test/")},
    }


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_launch(folder: Path) -> dict[str, Any]:
    launches = _provenance(folder).get("launches") or [{}]
    return launches[-1] if isinstance(launches[-1], dict) else {}


def _device_of(launch: dict[str, Any]) -> str:
    return "auto" if launch.get("device", {}).get("type") == "cuda" else "cpu"
