"""Restore the networks of a committed round, from its checkpoint or by retraining from the ledger. Nothing is written."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alframe.experiment import Experiment
from alframe.labels.consensus import COUNTS_FROM, Rules
from alframe.labels.ledger import Answers
from alframe.labels.pool import Pool
from alframe.learner import Learner
from alframe.record.layout import Layout
from alframe.record.planned import Line
from alframe.record.read import read_planned
from alframe.types import Labelled


def labelled_at(experiment: Experiment, ledger: Sequence[Line], rules: Rules, round: int) -> Labelled:
    """Training and validation images of a round, derived from the answers up to it and the corrections that counted by then."""
    answers = Answers([line for line in ledger if max(line["round"], line.get(COUNTS_FROM, 0)) <= round])
    n_classes = len(rules.classes) or experiment.data.pool.n_classes
    pool = Pool(experiment.data.pool.ids, answers, n_classes, rules)
    return Labelled(pool.training(), pool.validation())


def as_trained(experiment: Experiment, folder: Path, round: int) -> tuple[Experiment, Rules]:
    """The experiment with as many classes as the networks of `round` have outputs, and the rules with those; people may have found
    others since.
    """
    rules = experiment.annotator.rules(experiment.data.pool.classes)
    classes = rules.classes or experiment.data.pool.classes
    planned = read_planned(folder, round) or {}
    known = classes[: planned.get("n_classes") or _outputs(planned) or len(classes)]
    return experiment.with_classes(known), replace(rules, classes=known)


def _outputs(planned: Line) -> int:
    """The number of classes in what an earlier version stored; 0 if nothing tells."""
    if planned.get("evaluation"):  # there is none without test images
        return len(planned["evaluation"]["classes"])
    return next((len(q["probs"]) for q in planned.get("questions", ()) if q["probs"]), 0)


def restore(
    experiment: Experiment, folder: Path, ledger: Sequence[Line], rules: Rules, round: int
) -> tuple[Learner, str]:
    """The learner with the posterior of `round` of the run in `folder`, and how it was obtained."""
    layout, learner = Layout(folder), experiment.learner(round)

    def labelled(number: int) -> Labelled:
        return labelled_at(experiment, ledger, rules, number)

    if layout.checkpoint(round).is_file():
        known = labelled(round)
        learner.restore(layout.checkpoint(round), known.training, known.validation, round)
        return learner, "from its checkpoint"
    start, first, warm = time.perf_counter(), round, experiment.trainer.warm_start
    while warm and experiment.continues(first) and not layout.checkpoint(first - 1).is_file():
        first -= 1
    if warm and experiment.continues(first):
        learner.load_warm_start(layout.checkpoint(first - 1))
    for number in range(first, round + 1):
        known = labelled(number)
        learner.fit(known.training, known.validation, number)
    rounds = f"rounds {first} to {round}" if first < round else "it"
    return learner, f"no checkpoint: retrained {rounds} in {time.perf_counter() - start:.1f} s"
