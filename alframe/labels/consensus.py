"""One label from several people's answers, by majority or Dawid-Skene, and how much the people agree.

A ledger line has a `label`, or null and an `answer`: unsure (`text` may name a more likely class), skip, bad_image, new_class
(named in `text`), or unanswered (its round was closed). A vote is a class (int), bad_image, or a class without a number (`new: NAME`).
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

Line = Mapping[str, Any]
Vote = int | str
Posterior = Float[np.ndarray, " c"]

UNSURE, SKIP, BAD_IMAGE, NEW_CLASS, UNANSWERED = "unsure", "skip", "bad_image", "new_class", "unanswered"
CHECKS = ("gold", "repeat")
"""Kinds of ledger lines that check the annotator on an image with a known answer. They buy nothing and label nothing."""

FROM_FOLDER = "given"
"""The kind of ledger lines with labels from class folders, which answer no question. They count as bought."""


COUNTS_FROM = "counts_from"
"""The key of a correction: a later line about a question that is closed, with the first round that it counts in.

It takes the place of what was settled, whoever had answered; the answers themselves stay as they were.
"""


@dataclass(frozen=True)
class Rules:
    """How answers become labels; declared by the annotator.

    `people`: several may answer, and each one's last answer counts; otherwise a second answer is an error. `per_image`: people
    that an image needs. `ask_again`: how often an image that nobody was sure of returns to the pool. `classes`: the dataset's,
    then `new_classes`, which people found. `unsure`: see `AsksPeople`; `lean`: the probability of the class found most likely.
    """

    people: bool = False
    per_image: int = 1
    ask_again: int = 0
    aggregate: Literal["majority", "dawid_skene"] = "majority"
    classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    unsure: Literal["again", "soft"] = "again"
    lean: float = 0.7


def normalized_name(name: str) -> str:
    """A normalised class name: case, white space and the Unicode composition of characters are ignored."""
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def vote(line: Line, classes: Sequence[str] = ()) -> Vote | None:
    """The vote of a ledger line, or None if it abstains. A new class that `classes` names is its number."""
    if line["label"] is not None:
        return int(line["label"])
    if line.get("answer") == NEW_CLASS:
        number = _number_of(line, classes)
        return f"new: {normalized_name(str(line.get('text', '')))}" if number is None else number
    return BAD_IMAGE if line.get("answer") == BAD_IMAGE else None


def _number_of(line: Line, classes: Sequence[str]) -> int | None:
    """The number of the class named in the `text` of a line."""
    wanted = normalized_name(str(line.get("text", "")))
    return next((number for number, name in enumerate(classes) if normalized_name(name) == wanted), None)


def majority(votes: Iterable[Vote]) -> Vote | None:
    """The most frequent vote, or None without votes or with a tie."""
    ranked = Counter(votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def agreement(votes: Sequence[Sequence[Vote]]) -> dict[str, float]:
    """Agreement on the images with two or more votes; empty if there are none.

    `pairs`, in [0, 1]: the share of equal pairs of votes on an image, averaged over images. `kappa`, at most 1:
    (pairs - chance) / (1 - chance), where chance is the sum of the squared vote shares; omitted if all votes are equal.
    Source: Fleiss 1971, Measuring nominal scale agreement among many raters. Differs: images may have different numbers of votes.
    """
    items = [Counter(item) for item in votes if len(item) > 1]
    if not items:
        return {}
    shares = [sum(k * (k - 1) for k in item.values()) / (item.total() * (item.total() - 1)) for item in items]
    pairs = float(np.mean(shares))
    total = sum(items, Counter())
    chance = sum((k / total.total()) ** 2 for k in total.values())
    return {"pairs": pairs} | ({"kappa": (pairs - chance) / (1 - chance)} if chance < 1 else {})


def dawid_skene(
    items: Int[np.ndarray, " a"],
    people: Int[np.ndarray, " a"],
    labels: Int[np.ndarray, " a"],
    n_classes: int,
    *,
    prior: float = 0.01,
    max_iterations: int = 200,
    tolerance: float = 1e-8,
) -> tuple[Float[np.ndarray, "i c"], Float[np.ndarray, "w c c"]]:
    """The probability of each class for each item, and each person's confusion matrix (rows: truth), from `a` answers by EM.

    Answer a: `people[a]` gave `items[a]` the label `labels[a]`; items and people are numbered from 0 without gaps. EM
    starts from the vote shares and ends when no probability changes by more than `tolerance`, or after `max_iterations`.
    Source: Dawid and Skene 1979, Maximum likelihood estimation of observer error-rates using the EM algorithm. Differs:
    `prior` is added to every count of the M step, so that unseen answers do not get probability 0.
    """
    n_items, n_people = int(items.max(initial=-1)) + 1, int(people.max(initial=-1)) + 1
    posterior = np.zeros((n_items, n_classes))
    np.add.at(posterior, (items, labels), 1.0)
    posterior /= posterior.sum(axis=1, keepdims=True)
    confusion = np.zeros((n_people, n_classes, n_classes))
    for _ in range(max_iterations):
        shares = posterior.sum(axis=0) + prior
        counts = np.full((n_people, n_classes, n_classes), prior)  # [person, label, truth], transposed below
        np.add.at(counts, (people, labels), posterior[items])
        confusion = (counts / counts.sum(axis=1, keepdims=True)).transpose(0, 2, 1)
        log = np.tile(np.log(shares / shares.sum()), (n_items, 1))
        np.add.at(log, items, np.log(confusion[people, :, labels]))
        log -= log.max(axis=1, keepdims=True)
        updated = np.exp(log) / np.exp(log).sum(axis=1, keepdims=True)
        moved = float(np.abs(updated - posterior).max(initial=0.0))
        posterior = updated
        if moved <= tolerance:
            break
    return posterior, confusion


def settle(lines: Sequence[Line], rules: Rules, posterior: Posterior | None = None) -> dict[str, Any]:
    """One line per question from each person's last answer: the first line with the outcome in `label` and `answer`.

    One vote decides whether the image has a class at all, a second which (or the `posterior` of `dawid_skene`). A tie counts as
    unsure, and so do only abstentions, unless all are skips. A `soft_label`, if any, is in the key of that name.
    """
    settled = _settle(lines, rules, posterior)
    soft = soft_label(lines, rules, posterior)
    return settled if soft is None else {**settled, "soft_label": soft}


def _settle(lines: Sequence[Line], rules: Rules, posterior: Posterior | None) -> dict[str, Any]:
    if len(lines) == 1 and lines[0].get("answer") != NEW_CLASS:
        return dict(lines[0])
    votes = [v for v in (vote(line, rules.classes) for line in lines) if v is not None]
    outcome = _kind(votes)
    if outcome == "class":
        outcome = _class_of([v for v in votes if isinstance(v, int)], posterior)
    settled = {key: value for key, value in lines[0].items() if key not in ("label", "answer", "text")}
    settled["time_s"] = sum(line.get("time_s", 0.0) for line in lines)
    if isinstance(outcome, int):
        return {**settled, "label": outcome}
    if outcome is None:
        answers = {line.get("answer", SKIP) for line in lines}
        abstained = UNANSWERED if answers == {UNANSWERED} else SKIP if answers <= {SKIP, UNANSWERED} else UNSURE
        return {**settled, "label": None, "answer": UNSURE if votes else abstained}
    if outcome == BAD_IMAGE:
        return {**settled, "label": None, "answer": BAD_IMAGE}
    named = next(line["text"] for line in lines if vote(line, rules.classes) == outcome)
    return {**settled, "label": None, "answer": NEW_CLASS, "text": named}


def _kind(votes: Iterable[Vote]) -> Vote | None:
    """The kind of most votes: "class", whichever it is, or another answer; None without votes or with a tie."""
    return majority("class" if isinstance(v, int) else v for v in votes)


def soft_label(lines: Sequence[Line], rules: Rules, posterior: Posterior | None = None) -> list[float] | None:
    """Class probabilities from people who were not sure; None if they agreed on a class, or if most votes are no class.

    There is one if `rules.unsure` is soft, someone was unsure or two classes tie, and most votes (if any) are classes; none for
    validation images, whose metrics need classes. It is the mean over people: a class counts as certain (with Dawid-Skene, as the
    `posterior`); unsure with a name gives that class `rules.lean` and splits the rest equally; unsure without one is uniform.
    Source: vote shares as labels from Peterson et al. 2019, arXiv:1908.07086; the mean of the annotators' probabilities
    from Collins et al. 2022, arXiv:2207.00810. Differs: a fixed probability `lean` instead of one elicited each time.
    """
    if rules.unsure != "soft" or lines[0]["kind"] == "validation":
        return None
    votes = [v for v in (vote(line, rules.classes) for line in lines) if v is not None]
    unsure = [line for line in lines if line.get("answer") == UNSURE]
    if votes and _kind(votes) != "class":
        return None
    certain = [v for v in votes if isinstance(v, int)]
    if not unsure and (_class_of(certain, posterior) is not None or not certain):
        return None
    c = len(rules.classes)
    rows = [np.eye(c)[v] if posterior is None else posterior for v in certain]
    for line in unsure:
        number = _number_of(line, rules.classes)
        row = np.full(c, 1 / c if number is None else (1 - rules.lean) / (c - 1))
        if number is not None:
            row[number] = rules.lean
        rows.append(row)
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]  # independent of the order of answers


TIE = 1e-6
"""Classes whose probabilities differ by at most this are tied: rounding must not decide."""


def _class_of(votes: Sequence[int], posterior: Posterior | None) -> Vote | None:
    """The most likely class by the `posterior` of Dawid-Skene, else by majority; None for a tie."""
    if posterior is not None:
        second, first = np.partition(posterior, -2)[-2:]
        if first - second > TIE:
            return int(posterior.argmax())
    return majority(votes)


Question = tuple[int, int]
"""(round, index), because an image may be asked about again in a later round."""


def by_question(lines: Iterable[Line]) -> dict[Question, dict[str, Line]]:
    """Each person's last answer to each question, without checks and corrections."""
    found: dict[Question, dict[str, Line]] = {}
    for line in lines:
        if line["kind"] not in CHECKS and COUNTS_FROM not in line:
            found.setdefault((line["round"], line["index"]), {})[str(line.get("annotator"))] = line
    return found


def corrections(lines: Iterable[Line], round: int | None = None) -> dict[Question, Line]:
    """The last correction of each question, of those that count in `round` (None: of all)."""
    return {
        (line["round"], line["index"]): line
        for line in lines
        if COUNTS_FROM in line and (round is None or line[COUNTS_FROM] <= round)
    }


def settle_all(
    answers: Mapping[Question, Mapping[str, Line]], rules: Rules, corrected: Mapping[Question, Line] | None = None
) -> list[dict[str, Any]]:
    """`settle` for each question, in the order of `answers`; a question that is `corrected` is settled by that line alone."""
    posteriors = _posteriors(answers, rules) if rules.aggregate == "dawid_skene" else {}
    corrected = corrected or {}
    return [
        settle([corrected[question]], rules)
        if question in corrected
        else settle(list(lines.values()), rules, posteriors.get(question))
        for question, lines in answers.items()
    ]


def _posteriors(answers: Mapping[Question, Mapping[str, Line]], rules: Rules) -> dict[Question, Posterior]:
    """Class probabilities by question from `dawid_skene`, over all questions with at least one class vote."""
    votes = [
        (question, name, v)
        for question, lines in answers.items()
        for name, line in lines.items()
        if isinstance(v := vote(line, rules.classes), int)
    ]
    if not votes:
        return {}
    questions = {question: number for number, question in enumerate(dict.fromkeys(q for q, _, _ in votes))}
    names = {name: number for number, name in enumerate(sorted({name for _, name, _ in votes}))}
    posterior, _ = dawid_skene(
        np.array([questions[q] for q, _, _ in votes]),
        np.array([names[name] for _, name, _ in votes]),
        np.array([v for _, _, v in votes]),
        len(rules.classes),
    )
    return {question: posterior[number] for question, number in questions.items()}
