"""From several answers to one, against naive versions and published examples."""

import itertools

import numpy as np
import pytest

from alframe.labels.consensus import (
    Rules,
    agreement,
    dawid_skene,
    majority,
    normalized_name,
    settle,
    settle_all,
    soft_label,
    vote,
)

CLASSES = ("good", "scratch")


def line(label=None, answer=None, who="anna", text=None, index=0, **more):
    said = {"answer": answer} if answer else {}
    said |= {"text": text} if text else {}
    return {"index": index, "round": 1, "rank": 0, "kind": "query", "label": label, "annotator": who, "time_s": 2.0, **said, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([], None),
        ([1], 1),
        ([0, 1], None),
        ([0, 1, 1], 1),
        ([0, 0, 1, 1], None),
        (["bad_image", "bad_image", 1], "bad_image"),
    ],
)
def test_the_majority_wins_and_a_tie_has_no_winner(votes, winner):
    assert majority(votes) == winner


@pytest.mark.parametrize(
    ("lines", "label", "answer"),
    [
        ([line(1)], 1, None),
        ([line(1), line(1, who="bob")], 1, None),
        ([line(1), line(0, who="bob")], None, "unsure"),
        ([line(1), line(answer="unsure", who="bob")], 1, None),
        ([line(answer="unsure"), line(answer="skip", who="bob")], None, "unsure"),
        ([line(answer="skip"), line(answer="skip", who="bob")], None, "skip"),
        ([line(answer="skip"), line(answer="unanswered", who="nobody")], None, "skip"),
        ([line(answer="unanswered", who="nobody")], None, "unanswered"),
        ([line(1), line(answer="unanswered", who="nobody")], 1, None),
        ([line(answer="bad_image"), line(answer="bad_image", who="bob"), line(0, who="cora")], None, "bad_image"),
        ([line(answer="bad_image"), line(0, who="bob")], None, "unsure"),
        ([line(answer="bad_image"), line(answer="bad_image", who="b"), line(0, who="c"), line(1, who="d"), line(1, who="e")], 1, None),
        ([line(answer="new_class", text="dent"), line(answer="new_class", text=" Dent", who="bob")], None, "new_class"),
        ([line(answer="new_class", text="Scratch"), line(1, who="bob")], 1, None),
    ],
)  # fmt: skip
def test_what_several_answers_come_to(lines, label, answer):
    settled = settle(lines, Rules(people=True, classes=CLASSES))
    assert (settled["label"], settled.get("answer")) == (label, answer)
    assert settled["time_s"] == 2.0 * len(lines)


def test_a_single_answer_stays_the_line_it_is():
    assert settle([line(1)], Rules()) == line(1)


def test_a_new_class_gets_its_number_once_it_is_named():
    said = line(answer="new_class", text="Dent")
    assert vote(said, CLASSES) == "new: dent"
    assert vote(said, (*CLASSES, "dent")) == 2
    assert settle([said], Rules(True, classes=(*CLASSES, "dent")))["label"] == 2


def naive_agreement(votes):
    """Every pair written out."""
    shares = []
    for item in votes:
        pairs = [a == b for a, b in itertools.combinations(item, 2)]
        if pairs:
            shares.append(sum(pairs) / len(pairs))
    pooled = [v for item in votes if len(item) > 1 for v in item]
    chance = sum((pooled.count(v) / len(pooled)) ** 2 for v in set(pooled))
    observed = sum(shares) / len(shares)
    return observed, (observed - chance) / (1 - chance)


def test_agreement_equals_all_pairs_written_out():
    rng = np.random.default_rng(0)
    votes = [rng.integers(0, 3, rng.integers(0, 5)).tolist() for _ in range(60)]
    found = agreement(votes)
    assert (found["pairs"], found["kappa"]) == pytest.approx(naive_agreement(votes))


def test_kappa_of_the_published_example():
    """Fourteen raters, ten subjects, five categories: kappa 0.210 (Fleiss' example as in textbooks)."""
    table = """0 0 0 0 14; 0 2 6 4 2; 0 0 3 5 6; 0 3 9 2 0; 2 2 8 1 1; 7 7 0 0 0; 3 2 6 3 0; 2 5 3 2 2; 6 5 2 1 0; 0 2 2 3 7"""
    counts = [[int(n) for n in row.split()] for row in table.split(";")]
    found = agreement([[c for c, n in enumerate(row) for _ in range(n)] for row in counts])
    assert found["kappa"] == pytest.approx(0.210, abs=5e-4)
    assert found["pairs"] == pytest.approx(0.378, abs=5e-4)


def test_agreement_needs_two_votes_and_kappa_two_kinds_of_vote():
    assert agreement([[1], [], [0]]) == {}
    assert agreement([[1, 1], [1, 1]]) == {"pairs": 1.0}


def simulated(accuracies, n=150, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    said = [
        (i, w, int(t) if rng.random() < p else int((t + rng.integers(1, n_classes)) % n_classes))
        for i, t in enumerate(truth)
        for w, p in enumerate(accuracies)
    ]
    return truth, *(np.array(column) for column in zip(*said, strict=True))


def naive_dawid_skene(items, people, labels, n_classes, prior, iterations):
    """The formulas of the paper with loops, products instead of logarithms."""
    n_items, n_people = max(items) + 1, max(people) + 1
    answers = list(zip(items.tolist(), people.tolist(), labels.tolist(), strict=True))
    posterior = [
        [sum(said == c for i, _, said in answers if i == item) for c in range(n_classes)] for item in range(n_items)
    ]
    posterior = [[v / sum(row) for v in row] for row in posterior]
    for _ in range(iterations):
        marginal = [sum(row[c] for row in posterior) + prior for c in range(n_classes)]
        marginal = [m / sum(marginal) for m in marginal]
        confusion = {}
        for w, c in itertools.product(range(n_people), range(n_classes)):
            counts = [
                sum(posterior[i][c] for i, *given in answers if given == [w, said]) + prior for said in range(n_classes)
            ]
            confusion[w, c] = [k / sum(counts) for k in counts]
        for item in range(n_items):
            products = []
            for c in range(n_classes):
                product = marginal[c]
                for i, w, said in answers:
                    if i == item:
                        product *= confusion[w, c][said]
                products.append(product)
            posterior[item] = [p / sum(products) for p in products]
    return np.array(posterior), np.array([[confusion[w, c] for c in range(n_classes)] for w in range(n_people)])


def test_dawid_skene_equals_the_formulas_written_out():
    _, items, people, labels = simulated([0.9, 0.6, 0.5], n=25)
    posterior, confusion = dawid_skene(items, people, labels, 3, prior=0.05, max_iterations=7, tolerance=0.0)
    expected = naive_dawid_skene(items, people, labels, 3, 0.05, 7)
    assert np.allclose(posterior, expected[0], atol=1e-10)
    assert np.allclose(confusion, expected[1], atol=1e-10)


ANAESTHETISTS = """
1:111 1 1 1 1; 2:333 4 3 3 4; 3:112 2 1 2 2; 4:222 3 1 2 1; 5:222 3 2 2 2; 6:222 3 3 2 2; 7:122 2 1 1 1; 8:333 3 4 3 3; 9:222 2 2 2 3;
10:232 2 2 2 3; 11:444 4 4 4 4; 12:222 3 3 4 3; 13:111 1 1 1 1; 14:222 3 2 1 2; 15:121 1 1 1 1; 16:111 2 1 1 1; 17:111 1 1 1 1;
18:111 1 1 1 1; 19:222 2 2 2 1; 20:222 1 3 2 2; 21:222 2 2 2 2; 22:222 2 2 2 1; 23:222 3 2 2 2; 24:221 2 2 2 2; 25:111 1 1 1 1;
26:111 1 1 1 1; 27:232 2 2 2 2; 28:111 1 1 1 1; 29:111 1 1 1 1; 30:112 1 1 2 1; 31:111 1 1 1 1; 32:333 3 2 3 3; 33:111 1 1 1 1;
34:222 2 2 2 2; 35:222 3 2 3 2; 36:433 4 3 4 3; 37:221 2 2 3 2; 38:232 3 2 3 3; 39:333 3 4 3 2; 40:111 1 1 1 1; 41:111 1 1 1 1;
42:121 2 1 1 1; 43:232 2 2 2 2; 44:121 1 1 1 1; 45:222 2 2 2 2"""


def test_dawid_skene_gives_the_figures_of_its_paper():
    """Five anaesthetists on 45 patients, the first of them three times; the shares of the grades and the first one's error rates."""
    answers = [
        (patient, person, int(said) - 1)
        for patient, row in enumerate(ANAESTHETISTS.split(";"))
        for person, times in enumerate(row.split(":")[1].split())
        for said in times
    ]
    posterior, confusion = dawid_skene(*map(np.array, zip(*answers, strict=True)), 4, prior=1e-9)
    assert np.allclose(posterior.mean(axis=0), [0.40, 0.42, 0.11, 0.07], atol=0.005)
    expected = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    assert np.allclose(confusion[0], expected, atol=0.006)


def test_dawid_skene_decides_no_tie():
    """Two people, two images, every answer contradicted: the first class is no likelier than the second."""
    answers = {
        (1, index): {"anna": line(index, index=index), "bob": line(1 - index, who="bob", index=index)}
        for index in (0, 1)
    }
    settled = settle_all(answers, Rules(True, per_image=2, aggregate="dawid_skene", classes=CLASSES))
    assert [(each["label"], each["answer"]) for each in settled] == [(None, "unsure")] * 2


def test_two_spellings_of_a_letter_are_one_name():
    """macOS writes the folder Öl with an O and a diaeresis; who types it writes one letter."""
    assert normalized_name("O\u0308l") == normalized_name("\u00d6L")


def test_dawid_skene_knows_who_is_right_where_a_majority_does_not():
    truth, items, people, labels = simulated([0.95, 0.95, 0.4, 0.4, 0.4], n=300)
    posterior, confusion = dawid_skene(items, people, labels, 3)
    ours = float(np.mean(posterior.argmax(axis=1) == truth))
    votes = [majority(labels[items == i].tolist()) for i in range(300)]
    assert ours > 0.94 > np.mean([v == t for v, t in zip(votes, truth, strict=True)]) + 0.05
    found = confusion.diagonal(axis1=1, axis2=2).mean(axis=1)
    assert np.allclose(found, [0.95, 0.95, 0.4, 0.4, 0.4], atol=0.08)


def test_answers_by_dawid_skene_follow_the_reliable_person():
    truth, items, people, labels = simulated([0.97, 0.97, 0.4, 0.4, 0.4], n=300)
    answers = {}
    for item, person, label in zip(items.tolist(), people.tolist(), labels.tolist(), strict=True):
        answers.setdefault((1, item), {})[str(person)] = line(label, who=str(person), index=item)
    settled = settle_all(answers, Rules(True, aggregate="dawid_skene", classes=("a", "b", "c")))
    by_index = [next(s for s in settled if s["index"] == i) for i in range(300)]
    right = [s["label"] == t for s, t in zip(by_index, truth, strict=True)]
    assert np.mean(right) > 0.94


SOFT = Rules(True, 3, classes=("a", "b", "c"), unsure="soft", lean=0.8)


def naive_target(lines, lean, classes):
    """By the sentences of `soft_label`, with loops."""
    total, n = [0.0] * len(classes), 0
    for said in lines:
        if said["label"] is not None:
            row = [float(c == said["label"]) for c in range(len(classes))]
        elif said.get("answer") != "unsure":
            continue
        elif "text" in said:
            row = [lean if c == said["text"] else (1 - lean) / (len(classes) - 1) for c in classes]
        else:
            row = [1 / len(classes)] * len(classes)
        total, n = [t + r for t, r in zip(total, row, strict=True)], n + 1
    return [t / n for t in total]


def test_soft_targets_are_the_mean_of_what_people_find_probable():
    rng, seen = np.random.default_rng(0), 0
    for _ in range(200):
        lines = []
        for person in range(rng.integers(1, 5)):
            said = rng.choice(["class", "lean", "unsure", "skip"])
            name = int(rng.integers(3))
            lines.append(
                line(name, who=str(person))
                if said == "class"
                else line(answer="unsure", text="abc"[name], who=str(person))
                if said == "lean"
                else line(answer=str(said), who=str(person))
            )
        target = soft_label(lines, SOFT)
        votes = [x["label"] for x in lines if x["label"] is not None]
        wanted = any(x.get("answer") == "unsure" for x in lines) or (votes and majority(votes) is None)
        assert (target is not None) == bool(wanted)
        if target is not None:
            seen += 1
            assert target == pytest.approx(naive_target(lines, 0.8, "abc"))
            assert sum(target) == pytest.approx(1)
            assert target == soft_label(lines[::-1], SOFT), "whoever answered first"
    assert seen > 100


@pytest.mark.parametrize(
    "lines",
    [
        [line(1)],
        [line(1), line(1, who="bob"), line(0, who="cora")],
        [line(answer="skip")],
        [line(answer="bad_image"), line(answer="unsure", who="bob")],
        [line(answer="bad_image"), line(answer="unsure", who="bob"), line(1, who="cora")],
        [line(answer="new_class", text="dent"), line(answer="unsure", who="bob")],
        [line(answer="unsure", kind="validation")],
    ],
)
def test_there_is_no_soft_target_where_people_are_sure_or_speak_of_no_class(lines):
    assert "soft_label" not in settle(lines, SOFT)


def test_without_the_policy_unsure_stays_what_it_was():
    said = line(answer="unsure", text="a")
    assert settle([said], Rules(True, classes=("a", "b", "c"))) == said
    assert settle([said], SOFT) == {**said, "soft_label": pytest.approx([0.8, 0.1, 0.1])}


def test_with_a_class_by_majority_and_someone_unsure_there_are_both():
    settled = settle([line(1), line(1, who="bob"), line(answer="unsure", who="cora")], SOFT)
    assert settled["label"] == 1
    assert settled["soft_label"] == pytest.approx([1 / 9, 7 / 9, 1 / 9])


def test_with_dawid_skene_those_who_gave_a_class_count_as_its_posterior():
    rules = Rules(True, 3, aggregate="dawid_skene", classes=("a", "b", "c"), unsure="soft")
    _, items, people, labels = simulated([0.9, 0.9], n=60)
    answers = {}
    for item, person, label in zip(items.tolist(), people.tolist(), labels.tolist(), strict=True):
        answers.setdefault((1, item), {})[str(person)] = line(label, who=str(person), index=item)
    answers[1, 0]["2"] = line(answer="unsure", who="2")
    posterior, _ = dawid_skene(items, people, labels, 3)
    settled = settle_all(answers, rules)
    assert settled[0]["label"] == posterior[0].argmax()
    assert settled[0]["soft_label"] == pytest.approx((2 * posterior[0] + 1 / 3) / 3)
    assert all("soft_label" not in one for one in settled[1:])
