"""EPIG against its definition, pair by pair in float64, and the traps of other implementations."""

import math

import pytest
import torch
from tests_support import LargestTensor
from torch import Tensor

from alframe import scores
from alframe.errors import StrategyError
from alframe.strategy import epig
from alframe.strategy.epig import Epig, _Targets
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, k: int, c: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Sure and unsure images under draws that are the same k functions for every call with the same k and c."""
    features = torch.randn(n, 6, generator=seeded(seed)) * torch.logspace(-1, 0.7, n)[:, None] * spread
    draws = torch.randn(1, c, 6, generator=seeded(1)) + 0.6 * torch.randn(k, c, 6, generator=seeded(2))
    return torch.einsum("nd,kcd->nkc", features, draws).log_softmax(dim=-1)


def naive_epig(pool: Tensor, target: Tensor) -> list[float]:
    """The Kullback-Leibler divergence of p(y, y*) from p(y) p(y*), averaged over targets."""
    answer = []
    for x in pool.double().softmax(dim=2):
        total = 0.0
        for other in target.double().softmax(dim=2):
            joint = (x[:, :, None] * other[:, None, :]).mean(dim=0)
            apart = x.mean(dim=0)[:, None] * other.mean(dim=0)
            total += float((torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, apart)).sum())
        answer.append(total / len(target))
    return answer


def view(pool: Tensor, target: Tensor, max_bytes: int = 1 << 30) -> PoolView:
    c = pool.shape[2]
    return PoolView(
        n=len(pool), pool={"log_probs": pool}, n_classes=c, target={"log_probs": target}, max_bytes=max_bytes
    )


def select(pool: Tensor, target: Tensor, size: int, seed: int = 0, max_bytes: int = 1 << 30) -> Selection:
    return Epig().select(view(pool, target, max_bytes), size, seeded(seed))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epig, "_BLOCK", 4)


@pytest.mark.parametrize(("k", "c"), [(2, 2), (5, 3), (30, 10), (6, 100)])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_scores_and_picks_are_those_of_the_definition(small_blocks: None, k: int, c: int, size: int) -> None:
    pool, target = images(40, k, c), images(9, k, c, seed=5)
    expected = torch.tensor(naive_epig(pool, target), dtype=torch.float64)
    selection = select(pool, target, size)
    assert selection.positions.tolist() == expected.argsort(descending=True)[:size].tolist()
    torch.testing.assert_close(selection.scores.double(), expected[selection.positions], atol=1e-7, rtol=1e-5)
    assert selection.score_name == "epig"
    if size == 40:
        torch.testing.assert_close(selection.pool_scores.double(), expected, atol=1e-7, rtol=1e-5)


def test_one_target_and_the_image_itself_as_target() -> None:
    pool = images(20, 8, 3)
    expected = torch.tensor(naive_epig(pool, pool[4:5]), dtype=torch.float64)
    selection = select(pool, pool[4:5], 20)
    torch.testing.assert_close(selection.pool_scores.double(), expected, atol=1e-7, rtol=1e-5)


def test_probabilities_of_zero_and_one_give_no_nan() -> None:
    sure = torch.nn.functional.one_hot(torch.arange(12).reshape(4, 3) % 3, 3).float().log()  # the draws disagree
    agreed = sure[:, :1].repeat(1, 3, 1)
    pool, target = torch.cat([sure, agreed, images(5, 3, 3)]), torch.cat([sure[:1], images(3, 3, 3, seed=5)])
    expected = torch.tensor(naive_epig(pool, target), dtype=torch.float64)
    selection = select(pool, target, len(pool))
    torch.testing.assert_close(selection.pool_scores.double(), expected, atol=1e-6, rtol=1e-5)
    assert select(sure, sure[:1], 1).scores[0] == pytest.approx(math.log(3), abs=1e-5)  # all that there is to know


def test_a_small_information_is_not_lost_to_rounding() -> None:
    """The difference of entropies near 2.3 would be 0 or 1e-7 for each of these."""
    pool, target = images(30, 5, 10, spread=0.002), images(5, 5, 10, seed=5)
    expected = torch.tensor(naive_epig(pool, target), dtype=torch.float64)
    assert expected.max() < 1e-4
    actual = _Targets(pool, view(pool, target)).information(pool)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-2, atol=1e-9)


def test_the_bounds_hold_and_are_below_bald() -> None:
    for k, c, spread in ((2, 2, 1.0), (10, 3, 5.0), (40, 10, 0.3), (40, 10, 2.0)):
        pool, target = images(200, k, c, spread=spread), images(20, k, c, seed=5)
        targets = _Targets(pool, view(pool, target))
        bounds = targets.bounds(pool)
        assert (bounds >= targets.information(pool)).all()
        assert (bounds <= scores.bald(pool) * 1.0001 + 5e-6).all()


def count_looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    information = _Targets.information

    def counting(self: _Targets, log_probs: Tensor) -> Tensor:
        counts.append(len(log_probs))
        return information(self, log_probs)

    monkeypatch.setattr(_Targets, "information", counting)
    return counts


def test_most_of_a_typical_pool_is_ruled_out_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, target = images(3000, 10, 5), images(40, 10, 5, seed=5)
    everything = _Targets(pool, view(pool, target)).information(pool)
    monkeypatch.setattr(epig, "_BLOCK", 64)
    counts = count_looked_at(monkeypatch)
    selection = select(pool, target, 20)
    assert selection.positions.tolist() == everything.argsort(descending=True)[:20].tolist()
    assert selection.pool_scores is None
    assert sum(counts) < 1500


def test_a_pool_without_information_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_looked_at(monkeypatch)
    agreed = images(300, 1, 5).repeat(1, 10, 1)
    selection = select(agreed, images(20, 10, 5, seed=5), 300)
    assert not counts
    assert sorted(selection.positions.tolist()) == list(range(300))
    assert torch.equal(selection.pool_scores, torch.zeros(300))
    assert select(agreed, agreed, 5, seed=1).positions.tolist() != select(agreed, agreed, 5, seed=2).positions.tolist()


def test_draw_k_of_the_pool_belongs_to_draw_k_of_the_targets() -> None:
    pool, target = images(40, 12, 3), images(9, 12, 3, seed=5)
    shuffled = target[:, torch.randperm(12, generator=seeded(3))]
    together = torch.randperm(12, generator=seeded(4))
    expected = select(pool, target, 40).pool_scores
    assert (select(pool, shuffled, 40).pool_scores - expected).abs().max() > 0.003
    torch.testing.assert_close(select(pool[:, together], target[:, together], 40).pool_scores, expected)


def test_targets_are_not_the_labelled_images() -> None:
    assert Epig.needs == {"target"}


def test_what_bears_on_no_target_is_not_wanted_however_much_the_draws_disagree() -> None:
    """The first half of the draws differ on one kind of image, odd and even draws on the other; targets are of the first kind."""
    left = torch.tensor([0.8, 0.2]).expand(8, 2)
    first_half = torch.where(torch.arange(8)[:, None] < 4, left, left.flip(1)).log()
    odd = torch.where(torch.arange(8)[:, None] % 2 == 0, torch.tensor([0.99, 0.01]), torch.tensor([0.01, 0.99])).log()
    pool = torch.stack([odd, first_half, odd])
    assert scores.bald(pool).argmax() != 1
    assert select(pool, first_half[None].repeat(3, 1, 1), 1).positions.tolist() == [1]


def test_memory_changes_nothing() -> None:
    pool, target = images(300, 10, 4), images(30, 10, 4, seed=5)
    expected = select(pool, target, 25)
    selection = select(pool, target, 25, max_bytes=1 << 12)
    assert selection.positions.tolist() == expected.positions.tolist()
    torch.testing.assert_close(selection.scores, expected.scores)


def test_no_tensor_of_all_images_times_targets_is_made() -> None:
    pool, target = images(500, 10, 5), images(200, 10, 5, seed=5)
    with LargestTensor() as largest:
        select(pool, target, 500, max_bytes=1 << 20)
    assert largest.nbytes <= 1 << 20  # all pairs of labels: 10 MB


def test_duplicates_come_together_and_are_picked_without_repeats() -> None:
    pool = images(5, 5, 3).repeat_interleave(8, dim=0)
    selection = select(pool, images(4, 5, 3, seed=5), 40)
    assert sorted(selection.positions.tolist()) == list(range(40))
    assert all(len(set(group)) == 1 for group in (selection.positions // 8).reshape(5, 8).tolist())


@pytest.mark.parametrize(
    ("target", "found"),
    [(None, "none"), ({"log_probs": images(0, 4, 3)}, "none"), ({"log_probs": images(3, 5, 3)}, "5 draws")],
)
def test_no_targets_or_targets_of_other_draws_are_an_error(target: dict[str, Tensor] | None, found: str) -> None:
    pool = images(10, 4, 3)
    with pytest.raises(
        StrategyError, match=rf"Expected target images with the 4 draws of the pool, got {found}; set query.target"
    ):
        Epig().select(PoolView(n=10, pool={"log_probs": pool}, n_classes=3, target=target), 2, seeded(0))


def test_the_summary_is_the_prediction_of_every_draw() -> None:
    log_probs = images(10, 5, 3)
    summary = Epig().summarize(Prediction(log_probs, torch.zeros(10, 2), log_probs[:, 0]))
    assert torch.equal(summary["log_probs"], log_probs)


def test_tiles_stay_small_with_many_classes() -> None:
    pool, target = images(6, 4, 300), images(40, 4, 300, seed=5)
    with LargestTensor() as largest:
        select(pool, target, 6)
    assert largest.nbytes <= 1 << 23  # one image against all targets: 14 MB
