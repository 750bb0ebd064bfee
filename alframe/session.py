"""A run between its rounds: what is labelled, which network is trained next, and who answers the open questions."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from alframe.annotator.base import Annotate, Job
from alframe.checks import as_begun, inspect_data, which_is_the_defect
from alframe.console import RoundTable
from alframe.errors import PoolError, Waiting
from alframe.experiment import Experiment
from alframe.labels.consensus import Rules
from alframe.labels.folders import record_folder_labels, record_moved_photos
from alframe.labels.pool import Pool
from alframe.learner import Learner
from alframe.model.evidence import NO_MAPS, shown_classes
from alframe.questions import initial_purchase
from alframe.record.contact_sheet import MAX_IMAGES
from alframe.record.planned import MAX_NEAREST, Planned, Shown
from alframe.record.read import read_provenance
from alframe.record.record import DISTANCES, EVIDENCE, Record
from alframe.strategy.anomaly import Anomaly
from alframe.strategy.base import Strategy
from alframe.strategy.mix import Mix
from alframe.strategy.random import Random
from alframe.trainer.memory import keep_freed_memory
from alframe.types import Labelled, Question

START = Mix([Random(), Anomaly()], [0.5, 0.5])
"""The start rule: the query while a strategy that needs a trained network has none. Unusual images alone would train a bad classifier."""


class Session:
    """One launch of a run. `experiment` includes the classes that people found and the photos that arrived so far."""

    def __init__(self, experiment: Experiment, record: Record, table: RoundTable) -> None:
        self.record, self.table, self.clock = record, table, experiment.resources.clock
        self._told: set[str] = set()
        self._original = experiment  # with the dataset's own classes
        self.experiment, rules = self._start_annotator()
        images = self.experiment.data.pool
        self.pool = Pool(images.ids, record.ledger, images.n_classes, rules)
        record_folder_labels(experiment.data, self.pool)
        # built now, so that errors are reported before anyone is asked
        self.learner: Learner | None = self.experiment.learner(record.done)

    @classmethod
    def open(cls, experiment: Experiment, record: Record, table: RoundTable | None = None) -> "Session":
        """Continue where the last launch stopped, and repeat the questions that a kill interrupted."""
        keep_freed_memory()
        past = read_provenance(record.folder)
        if past:
            experiment = replace(experiment, data=as_begun(experiment.data, past))
        experiment.check()
        data = experiment.data
        if not data.grown:
            experiment.budget.check(len(data.pool))
        table = table or RoundTable.of_data(data)
        provenance, warnings_found = inspect_data(experiment)
        if "normal" not in past:  # once a run
            warnings_found += which_is_the_defect(data)
        if not past:
            warnings_found += experiment.annotator.answered_elsewhere(record.folder, data)
        for warning in warnings_found:
            table.warn(warning)
        if data.normal_guessed:
            normal, defects = (", ".join(data.named(some or ())) for some in (data.normal, data.defects))
            table.note(f"normal: {normal}; defects: {defects} (guessed from names; set dataset.normal)")
        record.at_start(provenance, experiment.resources.device)
        session = cls(experiment, record, table)
        for line in record.rounds:
            table.row(line)
        session.ask(
            record.once(
                None, lambda: initial_purchase(session.experiment, session.pool, session.candidates().numpy())
            ).questions
        )
        for round in range(record.done):  # nothing to ask, unless the last line of the ledger was torn
            planned = record.planned(round)
            session.ask(planned.questions if planned else [])
        record.check_consistency()
        return session

    def rounds_left(self) -> Iterator[int]:
        """The rounds that are not committed yet, until one of them stops the run."""
        record = self.record
        while not record.stopped and record.done <= self.experiment.budget.rounds:
            planned = record.planned(record.done) is not None
            with nullcontext() if planned else self.clock.round(record.done):  # half a round has no comparable times
                yield record.done

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def labelled(self) -> Labelled:
        """The images labelled so far."""
        return Labelled(self.pool.training(), self.pool.validation())

    def candidates(self) -> Tensor:
        """Dataset indices that may be queried, int64 ascending: not asked about yet, and the file still exists."""
        available, gone = torch.from_numpy(self.pool.available()), self.experiment.data.gone
        return available[~torch.isin(available, torch.tensor(sorted(gone)))] if gone else available

    # -- before a round ------------------------------------------------------------------------------------------------

    def prepare(self, round: int) -> Learner:
        """The learner of the next round, with newly arrived photos, newly named classes and warm start."""
        self.pool.round = round
        self._refresh(round)
        self._tell_few_classes()
        learner = self.experiment.learner(round, self.learner)
        if self.experiment.trainer.warm_start and learner.posterior is None and self.experiment.continues(round):
            learner.load_warm_start(self.record.layout.checkpoint(round - 1))
        self.learner = learner
        return learner

    def strategy(self, round: int) -> Strategy:
        """The strategy of the round's query: the start rule, while the network has not seen two classes and would be asked."""
        counts, defects = self.pool.counts, self.experiment.data.defects
        strategy = self.experiment.strategy.at(round, self.pool.bought, counts, defects)
        if strategy.needs_network and self.labelled.n_seen < 2:
            strategy = START
        if "fixed" in strategy.needs and self.learner is not None:
            self._tell(f"Unusual images are found by {self.learner.unchanging.what}.")
        if "patch" in strategy.needs:
            self._tell(
                "Unusual images are found by their patches, in middle layers of a pretrained network (efficientnet_lite0)."
            )
        return strategy

    def keep_weights(self, learner: Learner) -> None:
        """Store the networks of the round, for a warm start or if the user asked for checkpoints."""
        if self.experiment.trainer.warm_start or self.record.keep_checkpoint:
            with self.clock.stage("record"):
                learner.save(self.record.layout.checkpoint(learner.round))

    def _tell_few_classes(self) -> None:
        """A network that has seen fewer than two classes has learned nothing. The round counts like any other."""
        if self.labelled.n_seen >= 2:
            return
        classes, counts = self.experiment.data.pool.classes, self.pool.counts
        found = ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count) or "none"
        self.table.note(
            f"Labels so far: {found}. The network learns nothing from fewer than two classes: it makes no guesses yet, and its "
            "metrics mean nothing."
        )

    def _tell(self, text: str) -> None:
        """A line between the rounds, once per launch."""
        if text not in self._told:
            self._told.add(text)
            self.table.note(text)

    def _start_annotator(self) -> tuple[Experiment, Rules]:
        """Start the annotator on the current images; returns the experiment with all classes it knows, and its rules."""
        original, classes = self._original, self._original.data.pool.classes
        job = Job(classes, original.seed, self.record.folder, self.record.ledger.lines, original.data)
        self._annotate = original.annotator.start(job)
        rules = original.annotator.rules(classes)
        return original.with_classes(rules.classes or classes), rules

    def _refresh(self, round: int) -> None:
        """Add photos that arrived before `round`, and record the labels of their class folders.

        Raises `Waiting` if no photo is left to query and there are no new labels since the last round.
        """
        photos, rounds = self.experiment.photos, self.record.rounds
        if photos is None:
            return
        for again in (False, True):
            if photos.refresh(round, again=again):
                normal = self._original.data.normal
                self._original = replace(self._original, data=replace(photos.data(), normal=normal))
                self.experiment, _ = self._start_annotator()
                self.pool.grow(self.experiment.data.pool.ids)
                self.learner = None
            for note in (*photos.notes(), *record_folder_labels(self.experiment.data, self.pool)):
                self.table.note(note)
            new_labels = self.pool.bought - (rounds[-1]["labels"] if rounds else 0)
            if new_labels or len(self.candidates()) or round >= self.experiment.budget.rounds:
                return
        raise Waiting(
            f"Waiting for photos: every photo in {photos.photos.path} has been queried; put new ones into "
            f"{photos.photos.unlabelled}/ and re-run the same command."
        )

    def show_evidence(self, planned: Planned, strategy: Strategy) -> None:
        """Draw where in the queried images the evidence is, before anyone is asked; it changes nothing else."""
        data, learner = self.experiment.data, self.learner
        self.record.drop_evidence(planned.round)  # of a launch that was killed before it stored the round
        if not (self.record.maps and data.has_pictures and planned.questions) or learner is None:
            return
        shown = sorted(planned.questions, key=lambda question: question.rank)[:MAX_IMAGES]
        rows = torch.tensor([question.index for question in shown])
        probs = [question.probs for question in shown if question.probs is not None]
        by_patches = "patch" in strategy.needs
        if not (by_patches or probs):
            return  # the network has nothing to say yet
        with self.clock.stage("record"):
            maps = learner.unchanging.patch_maps(rows) if by_patches else None
            if maps is None:
                maps = learner.evidence(rows, shown_classes(torch.tensor(probs), data.defects))
            if maps is None:
                self._tell(NO_MAPS)
                return
            of = DISTANCES if by_patches else EVIDENCE
            self.record.show_evidence(planned.round, data.pool.pixels[rows.numpy()], maps.numpy(), of)

    # -- after a round -------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question]) -> float:
        """Ask the questions that have no answer yet; returns the seconds it took. Raises what `ask` does."""
        with self.clock.stage("annotate") as asking:
            if self.experiment.photos is not None and (left := still_open(self.pool, questions)):
                record_moved_photos(self.experiment.photos.labels_now(), self.pool, left)
            ask(self._annotate, self.pool, questions)
        return asking.seconds

    def commit(self, planned: Planned) -> None:
        """Commit the round and print its line."""
        with self.clock.stage("record"):
            self.record.commit(planned, self._shown(planned.questions))
        self.table.row(planned.line, planned.remark)

    def _shown(self, questions: Sequence[Question]) -> Shown:
        data = self.experiment.data
        if not questions:
            return Shown(classes=data.pool.classes)
        labels = {line["index"]: line["label"] for line in self.pool.settled(questions[0].round)}
        answers = [labels.get(question.index) for question in questions]
        if not data.has_pictures:
            return Shown(answers, data.pool.classes)
        images = data.pool.pixels[[question.index for question in questions]]
        like = [question.nearest["index"] for question in questions[:MAX_NEAREST] if question.nearest]
        return Shown(answers, data.pool.classes, images, data.pool.pixels[like] if like else None)


def ask(annotate: Annotate, pool: Pool, questions: Sequence[Question]) -> None:
    """Ask the questions that have no answer yet; each answer is in the ledger before the next is requested.

    Raises `PoolError` if the annotator answers a question that was not asked or leaves one unanswered, and for classes
    that the config does not name; `Waiting` if people have not answered yet.
    """
    asked = {question.index: question for question in questions}
    for answer in annotate(still_open(pool, questions)):
        question = answer.about or asked.get(answer.index)
        if question is None:
            raise PoolError(
                f"Expected answers to the questions asked, got one about image {answer.index} from {answer.annotator}; fix the annotator."
            )
        pool.add(question, answer)
    # nothing is trained while a label has no class number
    if unnamed := pool.unnamed(questions[0].round) if questions else {}:
        found = ", ".join(f"{name!r} ({len(images)} images)" for name, images in unnamed.items())
        names = ",".join(f'"{name}"' for name in (*pool.rules.new_classes, *unnamed))  # quoted: any character may occur
        raise PoolError(
            f"Expected answers with known classes, got the new {found}; re-run the same command with "
            f"'annotator.new_classes=[{names}]' to train on them, or change the answers."
        )
    if left := still_open(pool, questions):
        raise PoolError(
            f"Expected an answer (a label, or None) to every question, got none for {len(left)} images "
            f"(the first: {left[0].index}); re-run the same command to ask for them."
        )


def still_open(pool: Pool, questions: Sequence[Question]) -> list[Question]:
    """The questions of one round that need more answers."""
    answered = pool.answered(questions[0].round) if questions else set()
    return [question for question in questions if question.index not in answered]
