"""What every strategy leaf must keep, read from configs/strategy/*.yaml: a new leaf is tested with no edit here.

A schedule (`switch`, `defect_first`) is tested as the strategy that it starts with.
"""

import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests_support import composed
from torch import Tensor

from alframe.strategy.base import Schedule, Strategy
from alframe.types import PoolView, Prediction, Selection, Summary

LEAVES = sorted((Path(__file__).parents[2] / "configs" / "strategy").glob("*.yaml"))
NAMES = [leaf.stem for leaf in LEAVES if leaf.stem != "custom"]
N, N_LABELED, N_OTHER, K, C, D, Q = 600, 40, 30, 4, 6, 24, 12

pytestmark = pytest.mark.filterwarnings("ignore:The batch saturates")  # batch_bald, with so few draws


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Posterior:
    """A last layer and K disturbed copies of it, as a fitted network would give them."""

    def __init__(self) -> None:
        self.weight = torch.randn(C, D, generator=seeded(1))
        self.draws = self.weight + 0.7 * torch.randn(K, C, D, generator=seeded(2))

    def head(self, features: Tensor) -> Tensor:
        return features @ self.weight.T

    def predict(self, features: Tensor) -> Prediction:
        log_probs = torch.einsum("bd,kcd->bkc", features, self.draws).log_softmax(dim=-1)
        return Prediction(log_probs, features, self.head(features).log_softmax(dim=-1))


POSTERIOR = Posterior()
FEATURES = torch.randn(N + N_LABELED + 2 * N_OTHER, D, generator=seeded(0))
POOL, LABELED, TARGET, HELD_OUT = FEATURES.split([N, N_LABELED, N_OTHER, N_OTHER])


@pytest.fixture(params=NAMES)
def node(request: pytest.FixtureRequest):
    return composed(f"strategy={request.param}").strategy


@pytest.fixture
def strategy(node) -> Strategy:
    return instantiate(node).at(0, 0, (0,) * C)


def summarize(strategy: Strategy, features: Tensor, batch: int = 256) -> Summary:
    parts = [strategy.summarize(POSTERIOR.predict(chunk)) for chunk in features.split(batch)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def view(
    strategy: Strategy,
    pool: Tensor = POOL,
    batch: int = 256,
    max_bytes: int = 1 << 30,
    n_labeled: int = N_LABELED,
    n_held_out: int = N_OTHER,
) -> PoolView:
    """The pool, and what the strategy's `needs` name."""
    extra: dict[str, object] = {}
    if "labeled" in strategy.needs:
        labeled = {name: tensor[:n_labeled] for name, tensor in summarize(strategy, LABELED, batch).items()}
        extra |= {"labeled": labeled, "labels": (torch.arange(N_LABELED) % C)[:n_labeled]}
    if "target" in strategy.needs:
        extra |= {"target": summarize(strategy, TARGET, batch)}
    if "held_out" in strategy.needs:
        held_out = {name: tensor[:n_held_out] for name, tensor in summarize(strategy, HELD_OUT, batch).items()}
        extra |= {"held_out": held_out, "held_out_labels": (torch.arange(N_OTHER) % C)[:n_held_out]}
    if "head" in strategy.needs:
        extra |= {"head": POSTERIOR.head}
    if "fixed" in strategy.needs:
        extra |= {"fixed": pool, "fixed_labeled": LABELED[:n_labeled]}
    if "patch" in strategy.needs:
        extra |= {"patch_scores": pool.norm(dim=1)}
    summary = summarize(strategy, pool, batch) if strategy.needs_pool_pass else {}
    return PoolView(n=len(pool), pool=summary, n_classes=C, max_bytes=max_bytes, **extra)


def choose(strategy: Strategy, size: int = Q, seed: int = 0, **options: object) -> list[int]:
    return strategy.select(view(strategy, **options), size, seeded(seed)).positions.tolist()


def tensors(of: PoolView | Prediction) -> list[Tensor]:
    found = []
    for value in vars(of).values():
        found += [value] if isinstance(value, Tensor) else list(value.values()) if isinstance(value, dict) else []
    return found


def unchanged(of: PoolView | Prediction, act: Callable[[], object]) -> bool:
    before = [tensor.clone() for tensor in tensors(of)]
    act()
    return all(torch.equal(a, b) for a, b in zip(before, tensors(of), strict=True))


def test_there_are_leaves_and_only_custom_lacks_a_target() -> None:
    assert NAMES
    assert [leaf.stem for leaf in LEAVES if OmegaConf.is_missing(OmegaConf.load(leaf), "_target_")] == ["custom"]


def test_the_custom_leaf_takes_any_target() -> None:
    custom = OmegaConf.load(next(leaf for leaf in LEAVES if leaf.stem == "custom"))
    custom._target_ = "alframe.strategy.random.Random"
    assert isinstance(instantiate(custom), Strategy)


def test_a_leaf_opens_with_a_line_that_says_what_it_is() -> None:
    for leaf in LEAVES:
        assert leaf.read_text().startswith("# "), leaf.name


def test_it_is_a_frozen_dataclass_whose_fields_are_its_keys(node) -> None:
    leaf = instantiate(node)
    assert isinstance(leaf, Schedule)
    assert is_dataclass(leaf)
    assert type(leaf).__dataclass_params__.frozen
    assert {field.name for field in fields(leaf)} == {key for key in node if not key.startswith("_")}


def test_it_declares_needs_and_draws(node, strategy: Strategy) -> None:
    leaf = instantiate(node)
    assert strategy.needs <= leaf.needs <= {"labeled", "target", "held_out", "head", "fixed", "patch"}
    assert 1 <= strategy.min_draws <= leaf.min_draws <= K


def check(selection: Selection, size: int, n: int) -> None:
    assert selection.positions.dtype == torch.int64
    assert selection.positions.shape == selection.scores.shape == (size,)
    assert len(set(selection.positions.tolist())) == size
    assert selection.positions.min() >= 0
    assert selection.positions.max() < n
    assert selection.scores.isfinite().all()
    assert selection.score_name
    if selection.pool_scores is not None:
        assert selection.pool_scores.shape == (n,)
        assert torch.equal(selection.pool_scores[selection.positions], selection.scores)


@pytest.mark.parametrize("size", [1, Q, N])
def test_it_picks_distinct_positions_with_finite_scores(strategy: Strategy, size: int) -> None:
    check(strategy.select(view(strategy), size, seeded(0)), size, N)


DEGENERATE = {
    "duplicates": POOL[:15].repeat(4, 1),
    "one image": POOL[:1].expand(60, -1),
    "zeros": torch.zeros(60, D),
    "extremes": torch.cat([torch.zeros(20, D), 1e3 * POOL[:20], 1e-3 * POOL[:20]]),
}


# A single pick cannot come twice, and its score is finite where those of many are: one pool shows that size 1 works at all.
@pytest.mark.parametrize(("pool", "size"), [("zeros", 1), *((name, size) for name in DEGENERATE for size in (Q, 60))])
def test_duplicates_zeros_and_certain_images_are_picked_once(strategy: Strategy, pool: str, size: int) -> None:
    check(strategy.select(view(strategy, DEGENERATE[pool].contiguous()), size, seeded(0)), size, 60)


@pytest.mark.parametrize("size", [1, Q, 40])
def test_it_starts_without_labels_and_without_validation_images(strategy: Strategy, size: int) -> None:
    pool = POOL[:40]
    check(strategy.select(view(strategy, pool, n_labeled=0, n_held_out=0), size, seeded(0)), size, 40)


def test_one_label_of_one_class_is_enough(strategy: Strategy) -> None:
    check(strategy.select(view(strategy, n_labeled=1, n_held_out=1), Q, seeded(0)), Q, N)


@pytest.mark.parametrize("n_classes", [2, 100])
def test_two_and_a_hundred_classes_are_alike(
    strategy: Strategy, n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(POSTERIOR, "weight", torch.randn(n_classes, D, generator=seeded(5)))
    monkeypatch.setattr(POSTERIOR, "draws", POSTERIOR.weight + torch.randn(K, n_classes, D, generator=seeded(6)))
    looked_at = replace(view(strategy, POOL[:100]), n_classes=n_classes)
    check(strategy.select(looked_at, Q, seeded(0)), Q, 100)


def test_the_nan_of_an_image_stands_in_its_summary_where_the_pool_pass_names_it(strategy: Strategy) -> None:
    features = POOL[:10].clone()
    features[3] = torch.nan
    summary = strategy.summarize(POSTERIOR.predict(features))
    broken = [tensor.reshape(10, -1).isnan().any(dim=1) for tensor in summary.values()]
    missing = torch.stack(broken or [torch.zeros(10, dtype=torch.bool)])
    assert missing.any(dim=0).nonzero().squeeze(1).tolist() == ([3] if strategy.needs_pool_pass else [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_device_does_not_change_the_choice(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = choose(strategy)
    looked_at = view(strategy)
    moved = {name: value.cuda() for name, value in vars(looked_at).items() if isinstance(value, Tensor)}
    for name, value in vars(looked_at).items():
        if isinstance(value, dict):
            moved[name] = {key: tensor.cuda() for key, tensor in value.items()}
    monkeypatch.setattr(POSTERIOR, "weight", POSTERIOR.weight.cuda())
    assert strategy.select(replace(looked_at, **moved), Q, seeded(0)).positions.tolist() == expected


def test_it_works_with_the_fewest_draws_it_declares(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(POSTERIOR, "draws", POSTERIOR.draws[: strategy.min_draws])
    assert strategy.select(view(strategy), Q, seeded(0)).scores.isfinite().all()


def test_the_generator_alone_decides(strategy: Strategy) -> None:
    chosen = choose(strategy, seed=1)
    torch.manual_seed(99)
    assert choose(strategy, seed=1) == chosen


def test_it_leaves_the_global_random_state_alone(strategy: Strategy) -> None:
    before = torch.get_rng_state()
    choose(strategy)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch", [1, 7, N])
def test_the_batch_size_of_the_pool_pass_does_not_matter(strategy: Strategy, batch: int) -> None:
    assert choose(strategy, batch=batch) == choose(strategy)


def test_the_memory_bound_does_not_change_the_choice(strategy: Strategy) -> None:
    pool = POOL[: N // 2]  # whose scores alone are more than 1,024 bytes
    assert choose(strategy, pool=pool, max_bytes=1 << 10) == choose(strategy, pool=pool, max_bytes=1 << 40)


def test_a_rule_without_randomness_does_not_depend_on_the_order_of_the_pool(strategy: Strategy) -> None:
    chosen = choose(strategy)
    if any(choose(strategy, seed=seed) != chosen for seed in (1, 2, 3)):
        return  # it draws, and draws belong to positions
    order = torch.randperm(N, generator=seeded(4))
    assert order[choose(strategy, pool=POOL[order])].tolist() == chosen


def test_its_inputs_are_left_as_they_were(strategy: Strategy) -> None:
    prediction = POSTERIOR.predict(POOL.clone())
    assert unchanged(prediction, lambda: strategy.summarize(prediction))
    looked_at = view(strategy)
    assert unchanged(looked_at, lambda: strategy.select(looked_at, Q, seeded(0)))


def test_a_summary_has_a_row_for_each_image_and_is_no_larger_than_the_prediction(strategy: Strategy) -> None:
    prediction = POSTERIOR.predict(POOL[:50])
    summary = strategy.summarize(prediction)
    assert all(len(tensor) == 50 for tensor in summary.values())
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in summary.values()}
    held.pop(POOL.untyped_storage().data_ptr(), None)  # the features as they came, which the test sliced from the pool
    assert sum(held.values()) <= sum(tensor.nbytes for tensor in tensors(prediction)) + 50 * 4


def test_it_can_be_pickled(strategy: Strategy) -> None:
    assert choose(pickle.loads(pickle.dumps(strategy))) == choose(strategy)
