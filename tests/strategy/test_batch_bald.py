"""BatchBALD against enumeration of every joint label in float64, and the traps of other implementations."""

import math
import warnings

import pytest
import torch
from tests_support import LargestTensor
from torch import Tensor

from alframe import scores
from alframe.engine.lazy_greedy import lazy_greedy
from alframe.errors import ConfigError
from alframe.strategy import batch_bald
from alframe.strategy.batch_bald import BatchBald, _Joint
from alframe.types import PoolView, Prediction, Selection

SATURATES = "The batch saturates"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pool(n: int, k: int, c: int, noise: float = 1.0) -> Tensor:
    """Sure and unsure images on which the draws disagree as one family of functions would."""
    features = torch.randn(n, 8, generator=seeded(n))
    shared = torch.randn(1, c, 8, generator=seeded(1))
    draws = shared + noise * torch.randn(k, c, 8, generator=seeded(2))
    return torch.einsum("nd,kcd->nkc", features, draws).log_softmax(dim=-1)


def naive_information(probs: Tensor) -> float:
    """I[y_1..y_b; draw] of a batch [b, k, c]: the joint entropy by enumeration, less the entropy given the draw."""
    given_draw = probs.new_ones(probs.shape[1], 1)
    for image in probs:
        given_draw = (given_draw[:, :, None] * image[:, None, :]).flatten(1)  # [k, c^b]
    joint = float(torch.special.entr(given_draw.mean(dim=0)).sum())
    return joint - float(torch.special.entr(probs).sum(dim=2).mean(dim=1).sum())


def naive_batch_bald(log_probs: Tensor, size: int) -> tuple[list[int], list[float]]:
    probs = log_probs.double().softmax(dim=2)
    picked: list[int] = []
    gains: list[float] = []
    while len(picked) < size:
        information = torch.tensor(
            [-1.0 if i in picked else naive_information(probs[[*picked, i]]) for i in range(len(probs))]
        )
        picked.append(int(information.argmax()))
        gains.append(float(information.max()) - sum(gains))
    return picked, gains


def select(log_probs: Tensor, size: int, seed: int = 0, max_bytes: int = 1 << 30, **options: int) -> Selection:
    view = PoolView(n=len(log_probs), pool={"log_probs": log_probs}, n_classes=log_probs.shape[2], max_bytes=max_bytes)
    return BatchBald(**options).select(view, size, seeded(seed))


def joint_after(log_probs: Tensor, picked: list[int], max_configurations: int = 10_000, seed: int = 0) -> _Joint:
    joint = _Joint(log_probs, max_configurations, 1 << 30, seeded(seed))
    for position in picked:
        joint.take(position)
    return joint


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few configurations at a time, and groups of them from 8 up, so that small pools meet every branch."""
    monkeypatch.setattr(batch_bald, "_ROWS", 5)
    monkeypatch.setattr(batch_bald, "_GROUPS", 2)


@pytest.mark.parametrize(("n", "k", "c", "size"), [(40, 20, 2, 4), (25, 12, 3, 4), (12, 3, 5, 2), (20, 2, 2, 1)])
def test_picks_and_gains_are_those_of_enumeration(small_tiles: None, n: int, k: int, c: int, size: int) -> None:
    log_probs = pool(n, k, c)
    expected, gains = naive_batch_bald(log_probs, size)
    selection = select(log_probs, size)
    assert selection.positions.tolist() == expected
    assert selection.scores.tolist() == pytest.approx(gains, abs=1e-6)
    assert selection.score_name == "information_gain"


def test_a_hundred_classes_are_alike() -> None:
    log_probs = pool(8, 15, 100)
    expected, gains = naive_batch_bald(log_probs, 2)
    selection = select(log_probs, 2)
    assert selection.positions.tolist() == expected
    assert selection.scores.tolist() == pytest.approx(gains, abs=1e-6)


def test_the_first_pick_is_the_top_of_bald() -> None:
    log_probs = pool(500, 20, 10)
    selection = select(log_probs, 1)
    bald = scores.bald(log_probs)
    assert selection.positions[0] == bald.argmax()
    assert selection.scores[0] == pytest.approx(float(bald.max()), abs=2e-6)


def test_gains_and_bounds_hold_the_entropy_given_the_draw() -> None:
    """Without it, rank goes to images that every draw finds vague."""
    vague = torch.full((1, 10, 3), -math.log(3))
    log_probs = torch.cat([vague.repeat(20, 1, 1), pool(10, 10, 3)])
    assert select(log_probs, 3).positions.min() >= 20


def test_enumeration_stops_where_it_says(small_tiles: None) -> None:
    log_probs = pool(30, 10, 3)
    assert joint_after(log_probs, [1, 2, 3], max_configurations=27).draws.shape == (27, 10)
    assert joint_after(log_probs, [1, 2, 3], max_configurations=27).draws.dtype == torch.float64
    sampled = joint_after(log_probs, [1, 2, 3, 4], max_configurations=27)
    assert len(sampled.draws) <= 27
    assert sampled.draws.dtype == torch.float32


def test_labels_that_no_draw_allows_are_not_enumerated() -> None:
    log_probs = torch.tensor([[[0.5, 0.5, 0.0], [0.9, 0.1, 0.0]]]).log().repeat(3, 1, 1)
    assert len(joint_after(log_probs, [0, 1, 2]).draws) == 8


@pytest.mark.parametrize("max_configurations", [1, 40, 100])
def test_a_sampled_gain_is_right_on_average_and_never_negative(max_configurations: int) -> None:
    log_probs = pool(30, 10, 3, noise=0.5)
    picked = [3, 7, 11, 19, 23]
    exact = joint_after(log_probs, picked, 3**5).gains(torch.arange(30))
    sampled = torch.stack(
        [joint_after(log_probs, picked, max_configurations, seed).gains(torch.arange(30)) for seed in range(150)]
    ).double()
    error = sampled.std(dim=0) / 150**0.5
    assert ((sampled.mean(dim=0) - exact).abs() < 4.5 * error + 1e-6).all()
    assert sampled.min() > -1e-6


def test_a_sample_of_enough_configurations_is_close_to_enumeration() -> None:
    log_probs = pool(60, 25, 3, noise=0.4)
    picked = [3, 7, 11, 19, 23, 31, 37]
    exact = joint_after(log_probs, picked, 3**7).gains(torch.arange(60))
    sampled = joint_after(log_probs, picked, 1000).gains(torch.arange(60)).double()
    assert exact.max() > 0.05
    assert (sampled - exact).abs().max() < 0.01
    torch.testing.assert_close(sampled, exact, rtol=0.05, atol=1e-3)


def test_lazy_picks_are_those_of_plain_greedy_where_labels_are_sampled(small_tiles: None) -> None:
    log_probs = pool(150, 30, 3, noise=0.4)
    plain = _Joint(log_probs, 500, 1 << 30, seeded(1))
    picked: list[int] = []
    for _ in range(10):
        gains = plain.gains(torch.arange(150))
        gains[picked] = -1
        picked.append(int(gains.argmax()))
        plain.take(picked[-1])
    lazy = _Joint(log_probs, 500, 1 << 30, seeded(1))
    bounds = scores.bald(log_probs) + 1e-5
    assert lazy_greedy(bounds, lazy.gains, lazy.take, 10, seeded(0), tighten=lazy.bounds)[0] == picked


@pytest.mark.parametrize("max_configurations", [100, 3**6])
def test_groups_of_configurations_bound_the_gain(small_tiles: None, max_configurations: int) -> None:
    log_probs = pool(80, 20, 3, noise=0.5)
    joint = joint_after(log_probs, [3, 7, 11, 19, 23, 31], max_configurations)
    bounds, gains = joint.bounds(torch.arange(80)), joint.gains(torch.arange(80))
    assert (bounds >= gains).all()
    if max_configurations > 100:  # a sampled gain may lie above BALD, by chance
        assert (bounds <= scores.bald(log_probs) + 2e-5).all()


def test_duplicates_of_an_image_are_not_picked_again_where_bald_would_pick_them() -> None:
    """Sure draws that disagree: one label says all that the duplicates could say."""
    log_probs = pool(40, 20, 4)
    best = int(scores.bald(log_probs).argmax())
    sharp = torch.nn.functional.one_hot(torch.arange(20) % 4, 4).float().mul(0.96).add(0.01).log()
    log_probs = torch.cat([log_probs, sharp.repeat(15, 1, 1)])
    top = scores.bald(log_probs).topk(6).indices
    assert (top >= 40).all()
    assert best < 40
    assert (select(log_probs, 6).positions >= 40).sum() <= 2


def test_memory_changes_nothing() -> None:
    log_probs = pool(300, 10, 4, noise=0.4)
    for max_configurations in (50, 1500):
        expected = select(log_probs, 7, max_configurations=max_configurations)
        for max_bytes in (1 << 16, 1 << 40):
            selection = select(log_probs, 7, max_bytes=max_bytes, max_configurations=max_configurations)
            assert selection.positions.tolist() == expected.positions.tolist()
            torch.testing.assert_close(selection.scores, expected.scores)


def test_the_choice_does_not_follow_the_precision_set_for_float32_products() -> None:
    before = torch.get_float32_matmul_precision()
    log_probs = pool(100, 10, 4, noise=0.4)
    expected = select(log_probs, 6, max_configurations=50).positions.tolist()
    try:
        torch.set_float32_matmul_precision("medium")
        assert select(log_probs, 6, max_configurations=50).positions.tolist() == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_tensor_of_all_candidates_times_configurations_is_made() -> None:
    log_probs = pool(800, 10, 5, noise=0.3)
    with LargestTensor() as largest:
        select(log_probs, 6, max_configurations=2000)
    assert largest.nbytes < 9 << 20  # candidates x configurations x classes: 32 MB in float32


def test_a_long_batch_does_not_underflow() -> None:
    """A hundred picks of 1/10 each have a probability of 1e-100, which float32 does not know."""
    generator = seeded(0)
    log_probs = (0.15 * torch.randn(130, 40, 10, generator=generator)).log_softmax(dim=-1)
    selection = select(log_probs, 120, max_configurations=200)
    assert (selection.scores > 0).all()
    assert selection.scores.sum() < math.log(40)


def test_information_never_exceeds_the_logarithm_of_the_draws_and_says_when_it_gets_there() -> None:
    log_probs = pool(200, 4, 3, noise=3.0)
    with pytest.warns(
        UserWarning, match=rf"{SATURATES}: \d+ picks have 1.\d\d of log 4 = 1.39 nats.*strategy=power_bald"
    ):
        selection = select(log_probs, 50)
    assert len(selection.positions.unique()) == 50
    assert 0.98 * math.log(4) < selection.scores.sum() <= math.log(4) + 1e-5
    useful = int((selection.scores > 0).sum())
    assert 2 <= useful < 20
    assert (selection.scores[useful:] == 0).all()


def test_one_warning_is_enough_and_a_batch_with_room_gives_none() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select(pool(100, 4, 3, noise=3.0), 100)
    assert len(caught) == 1
    select(pool(100, 100, 3, noise=0.3), 5)  # a warning would be an error


@pytest.mark.filterwarnings(f"ignore:{SATURATES}")
def test_the_rest_is_drawn_by_power_bald() -> None:
    sure = torch.nn.functional.one_hot(torch.arange(2) % 2, 2).float().log()  # tells the two draws apart for good
    agreed = torch.tensor([[0.7, 0.3], [0.7, 0.3]]).log()
    slight, more = torch.tensor([[0.5, 0.5], [0.6, 0.4]]).log(), torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log()
    log_probs = torch.stack([agreed, slight, sure, more])
    bald = scores.bald(log_probs)
    picks = torch.stack([select(log_probs, 4, seed).positions for seed in range(300)])
    assert (picks[:, 0] == 2).all()
    assert (picks[:, 3] == 0).all()  # what has no BALD comes last
    share = float((picks[:, 1] == 3).double().mean())
    assert share == pytest.approx(float(bald[3] / (bald[3] + bald[1])), abs=0.09)


@pytest.mark.filterwarnings(f"ignore:{SATURATES}")
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("size", [1, 5, 20])
def test_degenerate_pools_are_picked_without_repeats(k: int, size: int) -> None:
    one_hot = torch.nn.functional.one_hot(torch.arange(20 * k).reshape(20, k) % 3, 3).float().log()
    for log_probs in (one_hot, one_hot[:, :1].repeat(1, k, 1), torch.full((20, k, 3), -math.log(3))):
        selection = select(log_probs, size, max_configurations=5)
        assert len(selection.positions.unique()) == size
        assert selection.scores.isfinite().all()


def test_the_summary_is_the_prediction_of_every_draw() -> None:
    log_probs = pool(10, 5, 3)
    summary = BatchBald().summarize(Prediction(log_probs, torch.zeros(10, 2), log_probs[:, 0]))
    assert torch.equal(summary["log_probs"], log_probs)
    assert summary.keys() == {"log_probs"}


def test_no_configuration_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="max_configurations of at least 1, got 0"):
        BatchBald(max_configurations=0)
