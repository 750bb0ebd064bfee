"""The active-learning loop, on one screen: fit, evaluate, query, annotate, commit, until the budget is spent."""

import numpy as np
import torch
from torch import Tensor

from alframe.console import RoundTable
from alframe.experiment import Experiment
from alframe.learner import POOL, TEST, Learner
from alframe.metrics import Evaluation, evaluate
from alframe.query import query
from alframe.questions import at_most, questions_for
from alframe.record.planned import Line, Planned
from alframe.record.record import Record
from alframe.rng import generator
from alframe.session import Session
from alframe.types import Examples


def run(experiment: Experiment, record: Record, table: RoundTable | None = None) -> list[Line]:
    """Run one experiment, or resume it; returns its round lines. Committed rounds are never recomputed."""
    session = Session.open(experiment, record, table)
    for round in session.rounds_left():
        planned = record.once(round, lambda: fit_evaluate_query(session, round))  # noqa: B023 - called at once
        planned.line["annotate_s"] = session.ask(planned.questions)  # each answer: ledger first, memory second
        session.commit(planned)
    return record.rounds


def fit_evaluate_query(session: Session, round: int) -> Planned:
    """One round up to its questions; the result is stored before anyone is asked."""
    learner = session.prepare(round)
    experiment, pool, clock, labelled = session.experiment, session.pool, session.clock, session.labelled
    with clock.stage("fit") as fitting:
        fitted = learner.fit(labelled.training, labelled.validation, round)
    session.keep_weights(learner)
    with clock.stage("evaluate") as evaluating:
        test, held_out = measure(experiment, learner, labelled.validation)
    line: Line = {
        "round": round,
        "labels": pool.bought,
        "usable": pool.usable,
        "train": len(labelled.training),
        "validation": len(labelled.validation),
        **({"soft": labelled.training.n_soft} if pool.rules.unsure == "soft" else {}),
        **{f"test/{key}": value for key, value in (test.metrics if test else {}).items()},
        **{f"validation/{key}": value for key, value in (held_out.metrics if held_out else {}).items()},
        **pool.agreement(round),
        **pool.people(round),
        **fitted,
        "fit_s": fitting.seconds,
        "evaluate_s": evaluating.seconds,
    }
    line["stopped"] = experiment.budget.stop_reason([*session.record.rounds, line])
    shown = test or held_out
    remark = shown.caution if shown else ""
    planned = Planned([], line, remark=remark, n_classes=learner.n_classes)
    images, rows = experiment.data, labelled.validation.rows.tolist()
    planned.evaluation = test.as_dict(images.test.name) if test else None
    planned.held_out = held_out.as_dict(lambda row: images.pool.name(rows[row])) if held_out else None
    candidates = session.candidates()
    if line["stopped"] or not len(candidates):
        return planned

    n_chosen, n_validation = at_most(len(candidates), *experiment.budget.split(experiment.budget.size(round)))
    strategy, stream = session.strategy(round), generator(experiment.seed, round, "query")
    defects, target_set = experiment.data.defects, experiment.target_set
    picked = query(strategy, learner, candidates, n_chosen, stream, labelled, target_set, defects)
    line |= picked.seconds
    with clock.stage("annotate"):
        planned.questions = questions_for(experiment, learner, picked, candidates, n_validation, labelled)
    session.show_evidence(planned, strategy)
    planned.pool_scores = histogram(picked.pool_scores)
    return planned


def measure(
    experiment: Experiment, learner: Learner, validation: Examples
) -> tuple[Evaluation | None, Evaluation | None]:
    """Evaluate on the test images and on the validation images; None for an empty set."""
    data, costs = experiment.data, experiment.costs
    test = held_out = None
    if len(data.test):
        log_probs = learner.mean_log_probs(TEST, torch.arange(len(data.test)), "test")
        test = evaluate(log_probs, torch.from_numpy(data.test.labels), data.test.classes, costs, data.normal)
    if len(validation):
        log_probs = learner.mean_log_probs(POOL, validation.rows)
        held_out = evaluate(log_probs, validation.labels, data.pool.classes, costs, data.normal)
    return test, held_out


def histogram(scores: Tensor | None, bins: int = 50) -> dict[str, list[float]] | None:
    """Histogram of the finite pool scores: `bins` counts between `edges`; None without scores."""
    if scores is None or not len(scores):
        return None
    counts, edges = np.histogram(scores[scores.isfinite()].double().numpy(), bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
