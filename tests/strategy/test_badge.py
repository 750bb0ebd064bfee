"""BADGE against dense gradients: the embedding, the distances, and the distribution of the picks."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from alframe.engine import d_squared
from alframe.engine.distances import squared_distances
from alframe.engine.nearest_centre import NearestCentre
from alframe.strategy.badge import Badge
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prediction(n: int, c: int = 4, d: int = 5, seed: int = 0) -> Prediction:
    point = (2 * torch.randn(n, c, generator=seeded(seed))).log_softmax(dim=-1)
    draws = (2 * torch.randn(n, 3, c, generator=seeded(seed + 1))).log_softmax(dim=-1)
    return Prediction(draws, torch.randn(n, d, generator=seeded(seed + 2)), point)


def dense(summary: dict[str, Tensor]) -> Tensor:
    """The gradients themselves, float64 [n, c (d + 1)]."""
    return torch.einsum("nc,nd->ncd", summary["gradient"].double(), summary["features"].double()).flatten(1)


def select(
    strategy: Badge, summary: dict[str, Tensor], size: int, generator: torch.Generator, max_bytes: int = 1 << 30
) -> Selection:
    view = PoolView(n=len(summary["gradient"]), pool=summary, n_classes=4, max_bytes=max_bytes)
    return strategy.select(view, size, generator)


def rows(gradients: Tensor) -> dict[str, Tensor]:
    """A summary whose dense gradients are the rows given."""
    return {"gradient": torch.ones(len(gradients), 1), "features": gradients}


def test_the_embedding_is_the_gradient_that_the_last_layer_gets_for_the_predicted_label() -> None:
    h = torch.randn(6, 5, generator=seeded(0))
    layer = nn.Linear(5, 4)
    with torch.no_grad():
        layer.weight.normal_(generator=seeded(1))
        layer.bias.normal_(generator=seeded(2))
    log_probs = layer(h).log_softmax(dim=-1).detach()
    summary = Badge().summarize(Prediction(log_probs[:, None], h, log_probs))
    for i in range(6):
        layer.zero_grad()
        logits = layer(h[i : i + 1])
        nn.functional.cross_entropy(logits, logits.argmax(dim=1)).backward()
        gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1)
        torch.testing.assert_close(dense(summary)[i].reshape(4, 6).float(), gradient, atol=1e-6, rtol=1e-5)


def test_the_hallucinated_label_is_the_point_networks_and_not_the_posterior_means() -> None:
    point = torch.tensor([[0.6, 0.4]]).log()
    draws = torch.tensor([[[0.1, 0.9], [0.2, 0.8]]]).log()
    summary = Badge().summarize(Prediction(draws, torch.ones(1, 3), point))
    torch.testing.assert_close(summary["gradient"], torch.tensor([[-0.4, 0.4]]))


def test_the_summary_stays_factored() -> None:
    summary = Badge().summarize(prediction(10, c=7, d=9))
    assert {name: tensor.shape for name, tensor in summary.items()} == {"gradient": (10, 7), "features": (10, 10)}
    assert torch.equal(summary["features"][:, -1], torch.ones(10))


def test_a_confident_image_keeps_the_direction_of_its_gradient() -> None:
    log_probs = torch.tensor([[0.0, -40.0, -41.0]])
    gradient = Badge().summarize(Prediction(log_probs[:, None], torch.ones(1, 2), log_probs))["gradient"]
    small = torch.tensor([-40.0, -41.0]).exp()
    torch.testing.assert_close(gradient[0], torch.cat([-small.sum()[None], small]), atol=0, rtol=1e-5)


def test_factored_distances_are_the_dense_distances() -> None:
    summary = Badge().summarize(prediction(40))
    factors = [summary["gradient"], summary["features"]]
    expected = torch.cdist(dense(summary), dense(summary), compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(factors, factors), expected, rtol=1e-10, atol=1e-12)


def test_scores_are_squared_distances_to_the_nearest_earlier_pick() -> None:
    summary = Badge().summarize(prediction(200))
    selection = select(Badge(), summary, 60, seeded(5))
    gradients = dense(summary)[selection.positions]
    distances = torch.cdist(gradients, gradients, compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = [gradients[0].square().sum()] + [distances[i, :i].min() for i in range(1, 60)]
    torch.testing.assert_close(selection.scores.double(), torch.stack(expected), rtol=1e-5, atol=1e-9)


def triples(gradients: Tensor, first: int, power: float) -> dict[tuple[int, int], float]:
    """Probability of each (second, third) pick after `first` when weights are D^power."""
    distances = torch.cdist(gradients, gradients, compute_mode="donot_use_mm_for_euclid_dist").pow(power)
    probabilities = {}
    for second, third in permutations([i for i in range(len(gradients)) if i != first], 2):
        nearest = torch.minimum(distances[first], distances[second])
        p = distances[first, second] / distances[first].sum() * nearest[third] / nearest.sum()
        probabilities[second, third] = float(p)
    return probabilities


@pytest.mark.parametrize("block", [3, 256])
def test_picks_follow_d_squared_sampling_and_not_another_power(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d_squared, "BLOCK", block)
    summary = Badge().summarize(prediction(6, seed=2))
    gradients = dense(summary)
    first = int(gradients.norm(dim=1).argmax())
    generator, n_trials = seeded(0), 1200
    counts = Counter()
    for _ in range(n_trials):
        positions = select(Badge(first="norm"), summary, 3, generator).positions.tolist()
        assert positions[0] == first
        counts[positions[1], positions[2]] += 1

    def p_value(power: float) -> float:
        expected = triples(gradients, first, power)
        rare = [
            pair for pair in expected if n_trials * expected[pair] < 5
        ]  # too few each for the test: one class together
        classes = [[pair] for pair in expected if pair not in rare] + ([rare] if rare else [])
        observed = [sum(counts[pair] for pair in pairs) for pairs in classes]
        weights = [n_trials * sum(expected[pair] for pair in pairs) for pairs in classes]
        return float(chisquare(observed, weights).pvalue)

    assert p_value(2) > 1e-3
    assert p_value(4) < 1e-6  # squaring squared distances
    assert p_value(1) < 1e-6


def test_bounds_out_of_date_do_not_bend_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d_squared, "BLOCK", 2)
    monkeypatch.setattr(NearestCentre, "refresh", refresh_only_what_is_asked_for(NearestCentre.refresh))
    gradients = torch.tensor([[0.0], [1.0], [1.1], [5.0], [5.3]])
    generator, n_trials = seeded(1), 1200
    counts = torch.zeros(5)
    for _ in range(n_trials):
        counts[select(Badge(), rows(gradients), 3, generator).positions[2]] += 1
    expected = torch.zeros(5)
    for (_, third), p in triples(gradients.double(), 4, 2).items():
        expected[third] += n_trials * p
    assert (
        chisquare(counts[:4].numpy(), expected[:4].numpy() * counts[:4].sum().item() / expected[:4].sum().item()).pvalue
        > 1e-3
    )


def refresh_only_what_is_asked_for(original):
    def refresh(self, positions=None):
        if positions is not None or len(self.centres) == 1:
            original(self, positions)

    return refresh


def test_the_first_pick_by_norm_is_the_largest_gradient() -> None:
    for seed in range(5):
        summary = Badge().summarize(prediction(100, seed=seed))
        expected = int(dense(summary).norm(dim=1).argmax())
        assert select(Badge(first="norm"), summary, 1, seeded(seed)).positions.tolist() == [expected]


def test_the_first_pick_by_sampling_is_uniform_so_that_the_origin_is_no_ghost_centre() -> None:
    gradients = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [100.0, 0.0]])
    generator, counts = seeded(3), torch.zeros(4)
    for _ in range(800):
        counts[select(Badge(first="sample"), rows(gradients), 1, generator).positions] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("first", ["norm", "sample"])
@pytest.mark.parametrize("block", [3, 256])
def test_duplicates_are_left_while_distinct_images_remain(
    first: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(d_squared, "BLOCK", block)
    distinct = prediction(20)
    summary = {name: tensor.repeat_interleave(5, dim=0) for name, tensor in Badge().summarize(distinct).items()}
    for seed in range(5):
        positions = select(Badge(first=first), summary, 100, seeded(seed)).positions
        assert len(set((positions[:20] // 5).tolist())) == 20
        assert sorted(positions.tolist()) == list(range(100))


def test_zero_gradients_count_as_one_point() -> None:
    gradients = torch.cat([torch.zeros(30, 3), torch.eye(3)])
    positions = select(Badge(), rows(gradients), 4, seeded(0)).positions.tolist()
    assert len({max(p, 29) for p in positions}) == 4


def test_images_that_all_equal_a_pick_are_drawn_uniformly() -> None:
    summary = rows(torch.cat([torch.full((1, 2), 9.0), torch.ones(11, 2)]))
    generator, counts = seeded(0), torch.zeros(11)
    for _ in range(300):
        selection = select(Badge(), summary, 4, generator)
        assert selection.positions[0] == 0
        assert selection.scores[2:].tolist() == [0.0, 0.0]
        counts[selection.positions[2:] - 1] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_the_whole_pool_can_be_picked_with_a_few_bytes() -> None:
    summary = Badge().summarize(prediction(300))
    positions = select(Badge(), summary, 300, seeded(0), max_bytes=4096).positions.tolist()
    assert sorted(positions) == list(range(300))
    assert positions == select(Badge(), summary, 300, seeded(0)).positions.tolist()


def test_the_first_of_equally_long_gradients_goes_by_the_generator() -> None:
    strategy, zeros = Badge(), torch.zeros(20, 3)
    uniform = torch.full((20, 1, 2), 0.5).log()
    pool = strategy.summarize(Prediction(uniform, zeros, uniform[:, 0]))
    view = PoolView(n=20, pool=pool, n_classes=2)
    firsts = {strategy.select(view, 1, torch.Generator().manual_seed(seed)).positions.tolist()[0] for seed in range(20)}
    assert len(firsts) > 5
