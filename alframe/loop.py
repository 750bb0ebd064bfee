"""The active-learning loop, on one screen: fit, evaluate, query, annotate, commit, until the budget is spent."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alframe.annotator.base import Annotator
from alframe.board import MAX_PAIRS
from alframe.budget import draw_initial
from alframe.console import RoundTable
from alframe.dataset.growing import Growing
from alframe.errors import PoolError
from alframe.experiment import Experiment, goes_on, learner_of, with_annotator
from alframe.growth import add_answers_of_folders, candidates, give, with_arrivals
from alframe.images import Data
from alframe.learner import POOL, TEST, Learner
from alframe.memory import keep_freed_memory
from alframe.metrics import area_under_curve, evaluate
from alframe.pool import Pool
from alframe.query import Picked, query
from alframe.reason import nearest_of, reason
from alframe.record import Record
from alframe.rng import generator
from alframe.strategy.base import Strategy
from alframe.trainer.trainer import Examples
from alframe.types import Question

Line = dict[str, Any]


def run(experiment: Experiment, record: Record, table: RoundTable | None = None) -> list[Line]:
    """Run (or go on with) one experiment; returns its round lines. Nothing that was committed is computed again."""
    e, budget = experiment, experiment.budget
    e.check()
    keep_freed_memory()
    if not e.data.grown:
        budget.check(len(e.data.pool))
    e, annotator, rules = with_annotator(experiment, record.folder, record.ledger.lines)
    pool = Pool(e.data.pool.ids, record.ledger, e.data.pool.n_classes, budget.count_validation, rules)
    give(e.data, pool)
    learner: Learner | None = learner_of(e, record.done)
    table = table or RoundTable(binary=e.data.pool.n_classes == 2, of="test" if len(e.data.test) else "validation")
    for line in record.rounds:
        table.row(line)

    ask(annotator, pool, _initial(e, pool, record), e.photos)
    for round in range(record.done):  # nothing to ask, unless the last line of the ledger was torn
        ask(annotator, pool, questions_of(record.stage(f"round_{round:03d}")), e.photos)
    record.check_books()
    for round in range(record.done, 0 if record.stopped else budget.rounds + 1):
        stage = record.stage(f"round_{round:03d}")
        with e.profile.round(round) if stage is None else nullcontext():  # half a round has no times to compare
            if stage is None:
                arrived = with_arrivals(experiment, pool, record.rounds, table.note)
                if arrived is not experiment:
                    experiment, learner = arrived, None
                    e, annotator, _ = with_annotator(experiment, record.folder, record.ledger.lines)
                _check_classes(pool, e)
                learner = learner_of(e, round, learner)
                if e.trainer.warm_start and learner.posterior is None and goes_on(e, round):
                    learner.load_warm_start(record.checkpoint(round - 1))
                stage = _fit_evaluate_query(e, learner, pool, round, record.rounds)
                with e.profile.stage("record"):
                    if e.trainer.warm_start or record.keep_checkpoint:
                        learner.save(record.checkpoint(round))
                    record.store_stage(f"round_{round:03d}", stage)
            line, questions = stage["line"], questions_of(stage)
            with e.profile.stage("annotate"):
                line["annotate_s"] = ask(annotator, pool, questions, e.photos)
            with e.profile.stage("record"):
                images, answers, nearest = _shown(e.data, pool, questions)
                summary = final_numbers([*record.rounds, line]) if line["stopped"] else None
                record.commit(line, stage, images, answers, e.data.pool.classes, summary, nearest)
        table.row(line)
        if record.stopped:
            break
    return record.rounds


def questions_of(stage: Line | None) -> list[Question]:
    return [Question(**question) for question in stage["questions"]] if stage else []


def ask(annotator: Annotator, pool: Pool, questions: list[Question], photos: Growing | None = None) -> float:
    """Put the questions that have no answer yet; each answer is in the ledger before the next. Returns seconds.

    Raises `PoolError` when the annotator answers what was not asked, or leaves questions unanswered, and for classes that the
    config does not name; `Waiting` when people have not answered yet.
    """
    begin = time.perf_counter()
    add_answers_of_folders(photos, pool, _open(pool, questions))
    asked = {question.index: question for question in questions}
    for answer in annotator.annotate(_open(pool, questions)):
        question = answer.about or asked.get(answer.index)
        if question is None:
            raise PoolError(
                f"Expected answers to the questions asked, got one about image {answer.index} from {answer.annotator}; mend the annotator."
            )
        pool.add(question, answer)
    _check_named(pool, questions)
    if left := _open(pool, questions):
        raise PoolError(
            f"Expected an answer (a label, or None) to every question, got none about {len(left)} images "
            f"(the first: {left[0].index}); run the same command again to ask for them."
        )
    return time.perf_counter() - begin


def _open(pool: Pool, questions: list[Question]) -> list[Question]:
    answered = pool.answered(questions[0].round) if questions else set()
    return [question for question in questions if question.index not in answered]


def _check_named(pool: Pool, questions: list[Question]) -> None:
    """Nothing is trained while a label stands for a class that has no number."""
    unnamed = pool.unnamed(questions[0].round) if questions else {}
    if unnamed:
        told = ", ".join(f"{name!r} ({len(images)} images)" for name, images in unnamed.items())
        names = ",".join(f'"{name}"' for name in (*pool.rules.new_classes, *unnamed))  # quoted: it may hold any letter
        raise PoolError(
            f"Expected answers of classes that the config names, got the new {told}; run the same command with "
            f"'annotator.new_classes=[{names}]' to train on them, or change the answers."
        )


def final_numbers(lines: list[Line]) -> dict[str, float]:
    """The last value and the normalised area under the budget curve of every test metric; without a test set, of the validation metrics."""
    numbers: dict[str, float] = {}
    of = "test/" if any(key.startswith("test/") for key in lines[-1]) else "validation/"
    for key in lines[-1]:
        if key.startswith(of):
            points = [(line["labels"], line[key]) for line in lines if key in line]
            name = key.removeprefix(of)
            numbers[f"final/{name}"] = points[-1][1]
            numbers[f"area/{name}"] = area_under_curve(*map(list, zip(*points, strict=True)))
    return numbers


def _initial(e: Experiment, pool: Pool, record: Record) -> list[Question]:
    """The initial purchase, stored before anyone is asked. It depends on dataset, budget and seed only: compared runs share it.

    Labels that a folder gives are a part of it.
    """
    stage = record.stage("initial")
    if stage is None:
        labels, everything = e.data.pool.labels, candidates(e.data, pool)
        n_chosen, n_validation = e.budget.split(e.budget.initial_size(len(e.data.pool)), initial=True)
        n_chosen, n_validation = _at_most(len(everything), max(0, n_chosen - pool.usable), n_validation)
        stream = generator(e.seed, 0, "initial")
        chosen = draw_initial(labels, everything, n_chosen, e.budget.initial_set, e.data.pool.n_classes, stream)
        rest = np.setdiff1d(everything, chosen)
        drawn = draw_initial(labels, rest, n_validation, "random", e.data.pool.n_classes, stream)
        ranked = [("initial", int(index)) for index in chosen] + [("validation", int(index)) for index in drawn]
        ids = e.data.pool.ids
        questions = [Question(ids[index], index, kind, 0, rank) for rank, (kind, index) in enumerate(ranked)]
        stage = {"questions": [asdict(question) for question in questions]}
        record.store_stage("initial", stage)
    return questions_of(stage)


def _at_most(n: int, n_chosen: int, n_validation: int) -> tuple[int, int]:
    """A purchase from a pool of `n` images: more may come later into one that grows."""
    return min(n_chosen, n), min(n_validation, n - min(n_chosen, n))


def _check_classes(pool: Pool, e: Experiment) -> None:
    """A classifier needs two classes. An empty start is allowed: the first query is then made by an untrained network. Of people's
    answers nothing is thrown away: the next images may show another class.
    """
    seen, classes, budget = pool.training().certain.labels.unique().tolist(), e.data.pool.classes, e.budget
    if len(seen) < 2 and len(pool.ledger.lines) > 0:
        only = f"1 ({classes[seen[0]]})" if seen else "none"
        if pool.rules.people:
            warnings.warn(
                f"{only} of at least 2 classes among the {pool.bought} labels so far: the network can tell nothing until the next "
                "images show another; read nothing into its metrics.",
                stacklevel=2,
            )
            return
        first = "budget.initial" if budget.initial else "budget.query_size"
        balanced = ", or set budget.initial_set=balanced" if budget.initial else ""
        raise PoolError(
            f"Expected at least 2 classes among the {pool.bought} labels bought so far, got {only}; raise {first}{balanced}."
        )


def _fit_evaluate_query(e: Experiment, learner: Learner, pool: Pool, round: int, before: list[Line]) -> Line:
    """One round up to its questions, as plain values: what is stored before anyone is asked."""
    training, validation = pool.training(), pool.validation()
    seconds: dict[str, float] = {}
    with e.profile.stage("fit"), _timed(seconds, "fit_s"):
        fitted = learner.fit(training, validation, round)
    with e.profile.stage("evaluate"), _timed(seconds, "evaluate_s"):
        test_rows = torch.arange(len(e.data.test))
        test = (
            evaluate(
                learner.mean_log_probs(TEST, test_rows, f"round {round}: test"),
                torch.from_numpy(e.data.test.labels),
                e.data.test.classes,
                e.costs,
            )
            if len(test_rows)
            else None
        )
        held_out = (
            evaluate(
                learner.mean_log_probs(POOL, validation.rows), validation.labels, e.data.pool.classes, e.costs
            ).metrics
            if len(validation)
            else {}
        )
    line: Line = {
        "round": round,
        "labels": pool.bought,
        "usable": pool.usable,
        "train": len(training),
        "validation": len(validation),
        **({"soft": training.n_soft} if pool.rules.unsure == "soft" else {}),
        **{f"test/{key}": value for key, value in (test.metrics if test else {}).items()},
        **{f"validation/{key}": value for key, value in held_out.items()},
        **pool.agreement(round),
        **pool.people(round),
        **fitted,
        **seconds,
    }
    line["stopped"] = e.budget.stop_reason([*before, line])
    stage = {
        "round": round,
        "step": pool.bought,
        "line": line,
        "evaluation": test.as_dict() if test else None,
        "questions": [],
        "pool_scores": None,
    }
    if line["stopped"] is None:
        to_ask = torch.from_numpy(candidates(e.data, pool))
        n_chosen, n_validation = _at_most(len(to_ask), *e.budget.split(e.budget.size(round)))
        if not len(to_ask):
            return stage
        strategy = e.strategy.at(round, pool.bought)
        picked = _pick(e, strategy, learner, to_ask, n_chosen, training, validation, round)
        line |= picked.seconds
        with e.profile.stage("annotate"):
            questions = _questions(e, learner, picked, to_ask, n_validation, [training, validation], round)
        stage["questions"] = [asdict(question) for question in questions]
        stage["pool_scores"] = _histogram(picked.pool_scores)
    return stage


def _pick(
    e: Experiment,
    strategy: Strategy,
    learner: Learner,
    candidates: Tensor,
    size: int,
    training: Any,
    validation: Any,
    round: int,
) -> Picked:
    return query(
        strategy,
        learner,
        candidates,
        size,
        generator(e.seed, round, "query"),
        training=training,
        validation=validation,
        target=e.target,
        target_size=e.target_size,
        max_bytes=e.max_bytes,
        description=f"round {round}: pool",
        profile=e.profile,
    )


def _questions(
    e: Experiment,
    learner: Learner,
    picked: Picked,
    candidates: Tensor,
    n_validation: int,
    known: list[Examples],
    round: int,
) -> list[Question]:
    """The query in order of preference, then the random images for validation, each with what the model thinks of it."""
    rest = np.setdiff1d(candidates.numpy(), picked.indices)
    drawn = rest[torch.randperm(len(rest), generator=generator(e.seed, round, "validation"))[:n_validation].numpy()]
    indices = [*picked.indices, *drawn.tolist()]
    probs = learner.mean_log_probs(POOL, torch.tensor(indices, dtype=torch.int64)).exp()
    ids, classes = e.data.pool.ids, e.data.pool.classes
    nearest = nearest_of(learner, e.data.pool, indices, known)
    questions = []
    for rank, (index, p, like) in enumerate(zip(indices, probs, nearest, strict=True)):
        by_strategy = rank < len(picked.indices)
        questions.append(
            Question(
                id=ids[index],
                index=index,
                kind="query" if by_strategy else "validation",
                round=round + 1,
                rank=rank,
                score=picked.scores[rank] if by_strategy else None,
                score_name=picked.score_name if by_strategy else "",
                probs=[round_to(value) for value in p.tolist()],
                reason=reason(
                    p,
                    classes,
                    f"{picked.score_name} {picked.scores[rank]:.3g}" if by_strategy else "random, for validation",
                    like,
                ),
                nearest=like,
            )
        )
    return questions


def _histogram(scores: Tensor | None, bins: int = 50) -> dict[str, list[float]] | None:
    if scores is None or not len(scores):
        return None
    counts, edges = np.histogram(scores[scores.isfinite()].double().numpy(), bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _shown(
    data: Data, pool: Pool, questions: list[Question]
) -> tuple[np.ndarray | None, list[int | None], np.ndarray | None]:
    """The queried images (None for cached features) and the answers, in rank order; and of the first the nearest labelled images."""
    if not questions:
        return None, [], None
    labels = {line["index"]: line["label"] for line in pool.settled(questions[0].round)}
    answers = [labels.get(question.index) for question in questions]
    if len(data.pool.shape) != 3:
        return None, answers, None
    like = [question.nearest["index"] for question in questions[:MAX_PAIRS] if question.nearest]
    images = data.pool.pixels[[question.index for question in questions]]
    return images, answers, data.pool.pixels[like] if like else None


@contextmanager
def _timed(seconds: dict[str, float], key: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[key] = time.perf_counter() - begin


def round_to(value: float) -> float:
    """Six decimals are enough for a person, and keep the stage file small."""
    return round(value, 6)
