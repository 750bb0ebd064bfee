"""How the conformance script judges picks: no peer is installed or asked here."""

import ast
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # where a script finds its own modules

import conformance
from peers import judge
from peers.cases import KINDS, Case, arrays, blobs, grid, ours, smaller
from peers.client import Answer, PeerError
from peers.environment import PACKAGES
from peers.rows import Chance, Deterministic, Given, Verdict

from alframe import scores
from alframe.strategy.badge import Badge
from alframe.strategy.batch_bald import BatchBald
from alframe.strategy.clue import Clue
from alframe.strategy.core_set import CoreSet
from alframe.strategy.random import Random
from alframe.strategy.top_score import TopScore
from alframe.strategy.typiclust import TypiClust


@dataclass
class Fake:
    """A peer whose picks are a function of (case, size, seed)."""

    picks: object

    def ask(self, counterpart, case, size, seed=0, options=None, *, measure=True):
        return Answer(np.array(self.picks(case, size, seed)), None, 0.0, 0)

    def ask_often(self, counterpart, case, size, seeds, options=None, *, measure=False):
        return [self.ask(counterpart, case, size, seed) for seed in seeds]


def entropy_row(**changes):
    row = Deterministic(
        "entropy",
        TopScore(scores.entropy),
        "entropy",
        "f",
        rule=lambda case: judge.Top(judge.predictive_entropy(case)),
        cases=tuple(grid(("gaussian", "ties"), draws=(1,), labeled=(0,))),
    )
    return replace(row, **changes)


def ranked(case, size, seed):
    return np.argsort(-judge.predictive_entropy(case), kind="stable")[:size]


def test_cases_come_smallest_first_and_of_every_kind():
    found = grid(KINDS, draws=(1, 3), labeled=(0, 5))
    assert [case.n for case in found] == sorted(case.n for case in found)
    assert {case.kind for case in found} == set(KINDS)
    assert all(case.c ** (case.q - 1) <= 100 for case in grid(KINDS, draws=(2,), labeled=(0,), max_joint=100))


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_distributions_of_the_right_shape(kind):
    case = arrays(Case(n=9, q=2, c=5, k=3, m=4, kind=kind))
    assert case["log_probs"].shape == (9, 3, 5)
    assert case["labeled_log_probs"].shape == (4, 3, 5)
    assert np.exp(case["log_probs"].astype(float)).sum(axis=2) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(case["features"]).all()


def test_duplicates_are_equal_in_features_and_in_every_draw():
    case = arrays(Case(n=9, q=2, k=4, kind="duplicates"))
    for name in ("features", "log_probs", "point_log_probs"):
        assert (case[name][:3] == case[name][3:6]).all()
        assert (case[name][:3] == case[name][6:]).all()


def test_one_hot_predictions_have_probabilities_of_exactly_zero():
    assert np.isneginf(arrays(Case(n=5, q=1, k=2, kind="one_hot"))["log_probs"]).any()


def test_smaller_cases_are_of_the_same_kind_and_smaller():
    case = Case(n=40, q=10, c=100, k=10, m=20, kind="ties")
    found = smaller(case)
    assert found[0].n == 3
    assert all(other.kind == "ties" and other.q < other.n < 40 for other in found)


def test_both_choices_at_a_tie_follow_the_rule():
    rule = judge.Top(np.array([1.0, 3.0, 3.0, 2.0]))
    assert judge.broken_at(rule, [1, 2]) is None
    assert judge.broken_at(rule, [2, 1, 3]) is None


def test_a_worse_pick_is_named_by_its_step():
    rule = judge.Top(np.array([1.0, 3.0, 3.0, 2.0]))
    assert judge.broken_at(rule, [1, 3]) == 1
    assert judge.broken_at(rule, [3, 1], skip=1) is None
    with pytest.raises(ValueError, match="twice"):
        judge.broken_at(rule, [1, 1])


def test_core_set_reference_is_followed_by_alframe_only_from_its_own_start():
    case = arrays(Case(n=20, q=5, m=3))
    picks = ours(CoreSet(), case, 5).positions.tolist()
    assert judge.broken_at(judge.CoreSet(case["features"], case["labeled_features"]), picks) is None
    assert judge.broken_at(judge.CoreSet(case["features"], case["labeled_features"]), picks[::-1]) is not None


def test_batch_bald_reference_gives_nothing_to_a_copy_of_what_is_known():
    certain = np.log([[0.999, 0.001], [0.001, 0.999]]).astype(np.float32)
    case = {"log_probs": np.stack([certain, certain, np.log(np.full((2, 2), 0.5, dtype=np.float32))])}
    rule = judge.BatchBald(case)
    assert rule.values()[0] == pytest.approx(judge.bald(case)[0])
    assert rule.values()[2] == 0
    rule.take(0)
    assert rule.values()[1] < 0.02 * judge.bald(case)[1]


def test_batch_bald_follows_its_reference():
    case = arrays(Case(n=12, q=4, c=2, k=10))
    assert judge.broken_at(judge.BatchBald(case), ours(BatchBald(), case, 4).positions.tolist()) is None


def test_a_peer_with_the_same_rule_agrees_though_it_breaks_ties_otherwise():
    verdict = entropy_row().judge(Fake(ranked))
    assert verdict.word == "agrees"


def test_a_peer_with_another_rule_differs_and_the_case_is_shrunk():
    verdict = entropy_row().judge(Fake(lambda case, size, seed: ranked(case, len(case["features"]), seed)[::-1][:size]))
    assert verdict.word == "differs"
    assert "n=3 " in verdict.detail
    assert not verdict.ours_is_wrong


def test_a_difference_by_definition_is_called_so():
    verdict = entropy_row(definition=True).judge(Fake(lambda case, size, seed: range(size)))
    assert verdict.word == "differs by definition"


def test_alframe_is_blamed_where_only_the_peer_follows_the_rule():
    row = entropy_row(rule=lambda case: judge.Top(-judge.predictive_entropy(case)), definition=True)
    verdict = row.judge(Fake(lambda case, size, seed: np.argsort(judge.predictive_entropy(case))[:size]))
    assert verdict.word == "differs"
    assert verdict.ours_is_wrong


def test_an_image_picked_twice_is_a_difference():
    verdict = entropy_row().judge(Fake(lambda case, size, seed: [0] * size))
    assert "twice" in verdict.detail or "leaves the rule" in verdict.detail
    assert verdict.word == "differs"


def test_order_counts_unless_the_peer_gives_none():
    reverse = Fake(lambda case, size, seed: ranked(case, size, seed)[::-1])
    assert entropy_row().judge(reverse).word == "differs"
    assert entropy_row(ordered=False).judge(reverse).word == "agrees"


def test_a_peer_that_always_raises_cannot_run_and_one_that_sometimes_does_says_when():
    def never(case, size, seed):
        raise PeerError("ValueError: no")

    def not_for_many(case, size, seed):
        return ranked(case, size, seed) if size < 10 else never(case, size, seed)

    assert entropy_row().judge(Fake(never)).word == "cannot run"
    verdict = entropy_row().judge(Fake(not_for_many))
    assert verdict.word == "agrees"
    assert "cannot run" in verdict.detail


def test_another_first_pick_differs_by_definition_when_the_rest_follows():
    row = Deterministic(
        "core_set",
        CoreSet(),
        "core_set",
        "f",
        rule=lambda case: judge.CoreSet(case["features"], case["labeled_features"]),
        cases=tuple(Case(n=12, q=4, seed=seed) for seed in range(3)),
        start="the last image",
    )

    def from_the_last(case, size, seed):
        picks = [len(case["features"]) - 1]
        rule = judge.CoreSet(case["features"], case["labeled_features"])
        while len(picks) < size:
            rule.take(picks[-1])
            picks.append(int(rule.values().argmax()))
        return picks

    verdict = row.judge(Fake(from_the_last))
    assert verdict.word == "differs by definition"
    assert "the last image" in verdict.detail


def test_far_clusters_are_found_by_any_k_means_so_that_the_pick_rule_can_be_compared():
    for seed in range(3):
        case = blobs((8, 11, 14, 17), 1, 4, seed)
        assert ours(TypiClust(normalize=False), case, 3, seed).positions.tolist() == judge.typicality(case, 20)
        free = blobs((8, 11, 14), 0, 4, seed)
        weights = judge.predictive_entropy(free)
        assert set(ours(Clue(), free, 3, seed).positions.tolist()) == judge.nearest_to_means(free, weights)


def test_picks_given_the_clusters_are_compared_with_the_rule():
    cases = tuple((blobs((8, 11, 14), 0, 4, seed), 3) for seed in range(2))
    row = Given(
        "clue",
        Clue(),
        "clue",
        "f",
        expected=lambda c: judge.nearest_to_means(c, judge.predictive_entropy(c)),
        cases=cases,
    )
    right = Fake(lambda c, size, seed: sorted(judge.nearest_to_means(c, judge.predictive_entropy(c))))
    assert row.judge(right).word == "agrees"
    assert row.judge(Fake(lambda c, size, seed: range(size))).word == "differs"


def chance_row(**changes):
    case = arrays(Case(n=9, q=2, c=4, k=6, seed=1))
    row = Chance("random", Random(), "random", "f", case=case, size=1, expected=lambda case: np.full(9, 1 / 9))
    return replace(row, **changes)


def test_draws_from_the_right_distribution_agree_and_constant_ones_differ():
    uniform = Fake(lambda case, size, seed: np.random.default_rng(seed).permutation(9)[:size])
    assert chance_row().judge(uniform).word == "agrees"
    assert chance_row(expected=None, size=3).judge(uniform).word == "agrees"
    constant = Fake(lambda case, size, seed: range(size))
    assert chance_row().judge(constant).word == "differs"
    assert chance_row(expected=None, size=3).judge(constant).word == "differs"


def test_a_batch_with_an_image_twice_differs_whatever_its_frequencies():
    verdict = chance_row(size=2).judge(Fake(lambda case, size, seed: [seed % 9] * size))
    assert "twice in 600 of 600" in verdict.detail


def test_an_impossible_pick_has_no_chance():
    counts, expected = np.array([10, 1, 30]), np.array([0.25, 0, 0.75])
    assert judge.chance(counts, expected) == 0
    assert judge.chance(np.array([250, 0, 750]), expected) == pytest.approx(1)


@pytest.mark.parametrize("first", ["norm", "sample"])
def test_badge_draws_its_second_pick_as_the_reference_says(first):
    case = arrays(Case(n=9, q=2, c=4, k=1, seed=1))
    expected = judge.badge(case, uniform_first=first == "sample")
    assert expected.sum() == pytest.approx(1)
    seconds = [ours(Badge(first), case, 2, seed).positions[1] for seed in range(400)]
    assert judge.chance(np.bincount(seconds, minlength=9), expected) > 1e-4
    uniform = np.random.default_rng(0).integers(9, size=400)
    assert judge.chance(np.bincount(uniform, minlength=9), expected) < 1e-4


def test_a_peer_that_picks_the_same_whatever_the_seed_is_shown_with_its_pick():
    verdict = chance_row().judge(Fake(lambda case, size, seed: [4] * size))
    assert "p < 1e-12" in verdict.detail
    assert "picks 4 whatever the seed" in verdict.detail


@pytest.mark.parametrize("name", list(conformance.ROWS))
def test_every_row_asks_for_a_function_that_the_adapter_has(name):
    adapter = Path(conformance.__file__).parent / "peers" / "adapters" / f"{name.replace('-', '_').lower()}.py"
    tree = ast.parse(adapter.read_text(encoding="utf-8"))
    rows = conformance.ROWS[name]()
    assert name in PACKAGES
    assert rows
    assert {row.counterpart for row in rows} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_explains_differences_and_only_those():
    row = entropy_row(note="Sorts the wrong way round.")
    differs = conformance.page({"baal": [(row, Verdict("differs", "n=3: alframe 0, peer 1"))]}, "baal")
    assert "1 differs." in differs
    assert "| entropy | `f` | **differs** | n=3: alframe 0, peer 1 |" in differs
    assert "**entropy, `f`.** Sorts the wrong way round." in differs
    agrees = conformance.page({"baal": [(row, Verdict("agrees", "9 cases"))]}, None)
    assert "1 agrees." in agrees
    assert "wrong way" not in agrees
