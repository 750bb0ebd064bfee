"""What every shift promises, over every YAML in configs/shift, on images that carry names and groups."""

import pickle

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests_support import leaves

from alframe.config.overrides import load
from alframe.config.schema import composer
from alframe.dataset.base import Dataset
from alframe.dataset.shift.base import Shift, Shifted
from alframe.images import NO_CLASS, Data, ImageSet

LEAVES = [leaf for leaf in leaves("shift") if leaf.stem != "none"]
N, N_TEST = 300, 30


def images(n: int, seed: int, channels: int = 1) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, channels, 6, 5)).astype(np.uint8)
    labels = np.arange(n) % 3
    names = tuple(f"{seed}/{i}.png" for i in range(n))
    return ImageSet(pixels, labels, ("good", "odd", "bad"), labels * 2 + np.arange(n) // 3 % 2, names)


class Source(Dataset):
    """A dataset in memory."""

    def __init__(self, n: int = N, seed: int = 0, channels: int = 1) -> None:
        self.data = Data("tiny", images(n, seed, channels), images(N_TEST, seed + 1, channels))

    def load(self, cache):
        return self.data


def shift_of(leaf, **options):
    node = OmegaConf.load(leaf)
    node.pop("defaults", None)
    more = {"source": Source(400, 7)} if leaf.stem == "out_of_distribution" else {}
    return instantiate(node, **options, **more)


@pytest.fixture(params=LEAVES, ids=lambda leaf: leaf.stem)
def leaf(request):
    return request.param


@pytest.fixture
def shifted(leaf, tmp_path):
    return Shifted(Source(), shift_of(leaf)).load(tmp_path)


def test_there_are_shifts():
    assert {leaf.stem for leaf in LEAVES} == {"imbalance", "rare_class", "duplicates", "out_of_distribution"}


def test_a_leaf_is_a_shift_with_the_defaults_of_its_class_but_for_the_source(leaf):
    assert leaf.read_text().startswith("# ")
    made = shift_of(leaf)
    assert isinstance(made, Shift)
    node = yaml.safe_load(leaf.read_text())
    source = {"source": made.source} if hasattr(made, "source") else {}
    assert type(made)(**source) == made
    assert set(node) - {"_target_", "defaults"} == set(vars(made)) - {"source"}


def test_the_test_set_and_the_classes_stay_and_the_name_tells(leaf, shifted):
    before = Source().data
    assert shifted.test.content_hash == before.test.content_hash
    assert shifted.pool.classes == before.pool.classes
    assert shifted.pool.shape == before.pool.shape
    assert shifted.pool.pixels.dtype == np.uint8
    assert shifted.name == f"tiny with {shift_of(leaf).title}"
    assert shifted.augment is before.augment


def test_the_content_hash_tells_it_from_the_dataset(shifted):
    assert shifted.content_hash != Source().data.content_hash


def test_it_is_the_same_again_and_another_with_another_seed(leaf, shifted, tmp_path):
    assert Shifted(Source(), shift_of(leaf)).load(tmp_path).content_hash == shifted.content_hash
    assert Shifted(Source(), shift_of(leaf, seed=1)).load(tmp_path).content_hash != shifted.content_hash


def test_every_image_that_comes_from_the_pool_has_its_label_group_and_name(shifted):
    before = Source().data.pool
    index = {name: i for i, name in enumerate(before.names)}
    rows = [(i, index[name]) for i, name in enumerate(shifted.pool.names) if name in index]
    now, then = map(list, zip(*rows, strict=True))
    np.testing.assert_array_equal(shifted.pool.labels[now], before.labels[then])
    np.testing.assert_array_equal(shifted.pool.groups[now], before.groups[then])
    assert shifted.pool.labels.dtype == shifted.pool.groups.dtype == np.int64
    others = np.setdiff1d(np.arange(len(shifted.pool)), now)
    assert (shifted.pool.labels[others] == NO_CLASS).all()
    distance = shifted.pool.pixels[now].astype(int) - before.pixels[then]
    assert np.abs(distance).mean() < 10  # noise at most


def test_images_without_names_and_groups_do(leaf, tmp_path):
    source = Source()
    bare = images(N, 0)
    source.data = Data("tiny", ImageSet(bare.pixels, bare.labels, bare.classes), source.data.test)
    pool = Shifted(source, shift_of(leaf)).load(tmp_path).pool
    assert pool.names is None
    assert pool.groups is None


def test_the_pool_it_was_made_from_is_left_alone(leaf, tmp_path):
    source = Source()
    before = pickle.dumps(source.data)
    Shifted(source, shift_of(leaf)).load(tmp_path)
    assert pickle.dumps(source.data) == before


def test_a_run_without_a_shift_is_the_run_it_was():
    plain, none = load(), load(["shift=none"])
    assert "shift" not in plain.identity
    assert "shift" not in plain.identity["choices"]
    assert none.identity == plain.identity
    assert not isinstance(none.dataset, Shifted)


def test_a_shift_is_part_of_the_run_and_none_takes_off_that_of_a_preset(leaf):
    plan = load([f"shift={leaf.stem}"])
    assert isinstance(plan.dataset, Shifted)
    assert plan.identity["choices"]["shift"] == leaf.stem
    assert plan.identity["shift"]["seed"] == 0
    assert plan.folder != load().folder
    assert "shift" not in load(["experiment=duplicates", "shift=none"]).identity


def test_the_source_of_foreign_images_is_chosen_by_its_place():
    plan = load(["shift=out_of_distribution", "dataset@shift.source=mnist", "shift.source.pool_size=100"])
    assert type(plan.dataset.shift.source).__name__ == "Mnist"
    assert plan.identity["shift"]["source"]["pool_size"] == 100
    with composer() as compose:
        assert not compose([]).shift
