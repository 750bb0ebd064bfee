"""The networks of a run's last round, from its checkpoint or retrained from its ledger. The run folder is never written."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alframe.config.plan import Plan
from alframe.config.stored import stored_plan
from alframe.dataset.base import history_of
from alframe.errors import DataError, RunFolderError
from alframe.experiment import Experiment
from alframe.handover.predictor import BATCH, SAME, STRETCH, Predictor, Spec, Tensors, describe
from alframe.labels.consensus import COUNTS_FROM, Rules, corrections
from alframe.learner import POOL, TEST, Learner
from alframe.metrics import evaluate
from alframe.model.frozen import Frozen
from alframe.record.layout import PROVENANCE, ROUNDS
from alframe.record.read import flat, read_config, read_ledger, read_provenance, read_rounds
from alframe.restore import as_trained, labelled_at, restore

TOLERANCE = 1e-3
"""Largest difference to a stored test metric (relative above 1) that other threads or another device may cause."""
AGREES, ROUNDED = 1e-5, 1e-2
"""Largest difference between the probabilities of the run's own networks and of the export: for images on a CPU; and if a
GPU rounds depending on the batch size, or features were computed on another device."""
CHECKED = 100

Line = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A run's round `line`, with the `learner` that has its posterior. `how` and `difference` describe the reproduction.

    `experiment` has the classes that the round was trained with; `classes` also those that people have found since.
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
    def n_corrected_since(self) -> int:
        """Number of labels whose last correction came after the round was trained."""
        return sum(line[COUNTS_FROM] > self.round for line in corrections(self.ledger).values())

    @property
    def classes(self) -> tuple[str, ...]:
        return self.rules.classes or self.experiment.data.pool.classes


def retrieve(
    folder: Path,
    root: Path | None = None,
    *,
    device: str | None = None,
    progress: bool = True,
    accept: bool = False,
) -> Trained:
    """The posterior of the last committed round of the run in `folder`, checked against that round's test metrics.

    `root`: where its images are now. `device` null: that of the run's last launch, if available. Raises `RunFolderError` for a folder without a committed
    round, and if the metrics differ by more than `TOLERANCE`, unless `accept` is set.
    """
    read_config(folder)
    rounds = read_rounds(folder)
    recorded = read_provenance(folder)
    launch = (recorded.get("launches") or [{"device": {}}])[-1]["device"]
    options = {"progress": progress, "device": device or ("auto" if launch.get("type") == "cuda" else "cpu")}
    options |= {} if root is None else {"dataset.root": str(root)}
    plan = stored_plan(
        folder, **options, **{"query.target": "pool"}
    )  # its folder may be gone, and it decides queries alone
    if not rounds:
        raise RunFolderError(
            f"Expected a run with a committed round in {folder}, got one without; resume it first: alframe resume {folder}"
        )
    torch.set_num_threads(int(launch.get("threads", torch.get_num_threads())))
    line, ledger = rounds[-1], read_ledger(folder)
    photos = history_of(plan.dataset, folder, repair=False)
    data = plan.dataset.load(plan.cache) if photos is None else photos.data()
    experiment = plan.experiment(data.with_normal(recorded["normal"]) if "normal" in recorded else data)
    rules = experiment.annotator.rules(experiment.data.pool.classes)  # with the classes that people have found by now
    experiment, then = as_trained(experiment, folder, int(line["round"]))
    learner, how = restore(experiment, folder, ledger, then, int(line["round"]))
    trained = Trained(folder, plan, experiment, learner, line, bool(line.get("stopped")), ledger, rules, how, 0.0)
    difference, worst = _difference(trained)
    if not difference <= TOLERANCE and not accept:
        raise RunFolderError(
            f"Expected to reproduce the test metrics of round {line['round']} of {folder} ({how}), got {worst}; restore the data, "
            f"versions and device of its {PROVENANCE}, or accept the model as it is with --accept-difference."
        )
    return replace(trained, difference=difference)


def capture(trained: Trained) -> tuple[Spec, Tensors]:
    """The exported form of the run's posterior. Raises `DataError` if its predictions differ on the first images."""
    e, learner, config = trained.experiment, trained.learner, trained.plan.identity
    if len(e.data.pool.shape) != 3:
        raise DataError(
            f"Expected a run on images to export, got one on samples of shape {e.data.pool.shape}; predict features in Python instead."
        )
    normalizer, model = learner.normalizer, learner.model
    front = {"mean": normalizer.mean, "deviation": normalizer.deviation}
    parts = {"front": {key: value for key, value in front.items() if value is not None}}
    if isinstance(model, Frozen):
        parts["front"] |= {f"embedder.{key}": value for key, value in model.embedder().state_dict().items()}
    for member, network in enumerate(learner.fitted.networks):
        parts[f"network.{member}"] = network.state_dict()
    parts["posterior"] = learner.fitted.state
    origin = {
        "folder": str(trained.folder.resolve()),
        "dataset": trained.experiment.data.name,
        "data_hash": read_provenance(trained.folder).get("data_hash"),
        "seed": config.get("seed"),
        "choices": config.get("choices"),
        "round": trained.round,
        "labels": trained.line["labels"],
        "finished": trained.stopped,
        "weights": trained.how,
        "metrics_differ_by": trained.difference,
        "test": {key[5:]: value for key, value in trained.line.items() if key.startswith("test/")},
    }
    spec = Spec(
        classes=e.data.pool.classes,
        shape=e.data.pool.shape,
        resize=SAME if config["dataset"].get("size", 0) is None else STRETCH,
        normalization=learner.normalizer.mode,
        model=config["model"],
        on_features=model.on_features,
        uncertainty=config["uncertainty"],
        members=len(learner.fitted.networks),
        augmentation=describe(e.data.augment) if e.uncertainty.n_augmented else None,
        run=origin,
        normal=e.data.normal,
    )
    tensors = {key: value.detach().cpu() for key, value in flat(parts).items()}
    apart = _check(trained, Predictor(spec, tensors, learner.device))
    return replace(spec, run={**spec.run, "predictions_differ_by": apart}), tensors


def images_to_check(e: Experiment) -> tuple[str, np.ndarray]:
    """The name and pixels of the first test images, or of the first pool images if there is no test set."""
    which, images = (TEST, e.data.test) if len(e.data.test) else (POOL, e.data.pool)
    return which, np.array(images.pixels[:CHECKED])


def _check(trained: Trained, predictor: Predictor) -> float:
    """The largest difference between the probabilities of the export and of the run's own networks."""
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
            f"Expected the exported networks to predict like the run's, got probabilities that differ by {apart:.1g}; a tensor of "
            f"{type(trained.learner.fitted.networks[0]).__name__} is not in its state_dict: register it as a buffer."
        )
    return apart


def _difference(trained: Trained) -> tuple[float, str]:
    """The largest difference to a stored metric, with a description; 0 if the run has no metrics."""
    e, stored = trained.experiment, trained.line
    of, which, rows, labels = "test", TEST, torch.arange(len(e.data.test)), torch.from_numpy(e.data.test.labels)
    if not len(rows):  # photos without a test set: compare the validation metrics
        held_out = labelled_at(e, trained.ledger, trained.rules, trained.round).validation
        of, which, rows, labels = "validation", POOL, held_out.rows, held_out.labels
    if not len(rows):
        return 0.0, "no metrics"
    log_probs = trained.learner.mean_log_probs(which, rows, of)
    metrics = evaluate(log_probs, labels, e.data.pool.classes, e.costs, e.data.normal).metrics
    apart = {
        name: abs(value - stored[f"{of}/{name}"]) / max(1.0, abs(stored[f"{of}/{name}"]))
        for name, value in metrics.items()
        if isinstance(stored.get(f"{of}/{name}"), int | float) and math.isfinite(stored[f"{of}/{name}"])
    }
    if not apart:
        return math.nan, "none to compare with"
    worst = max(apart, key=lambda name: apart[name])
    return apart[worst], f"{worst} {metrics[worst]:.4f}, but {ROUNDS} has {stored[f'{of}/{worst}']:.4f}"
