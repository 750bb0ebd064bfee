import threading

import numpy as np
import pytest
import torch

from alframe.pixels import AHEAD, Normalizer, Pixels

CPU = torch.device("cpu")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 3, 6, 5)).astype(np.uint8)


def test_resident_and_streamed_rows_are_the_same(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = torch.tensor([7, 0, 29, 7, 3])
    resident, streamed = Pixels(mapped, CPU, 1 << 30), Pixels(mapped, CPU, 0)
    assert torch.equal(resident.take(rows), streamed.take(rows))
    assert torch.equal(resident.take(rows), torch.from_numpy(images[rows.numpy()]))


def test_pool_normalisation_gives_zero_mean_and_unit_deviation_for_each_channel(images):
    x = Normalizer(images, CPU)(torch.from_numpy(images))
    reference = (images.astype(np.float64) - images.mean((0, 2, 3), keepdims=True)) / images.std(
        (0, 2, 3), keepdims=True
    )
    assert torch.allclose(x.double(), torch.from_numpy(reference), atol=1e-5)


def test_image_normalisation_removes_exposure(images):
    normalize = Normalizer(images, CPU, "image")
    dark = torch.from_numpy(images // 2)
    assert torch.allclose(normalize(dark.float() * 2 + 10), normalize(dark.float()), atol=1e-4)


def test_without_normalisation_images_stay_as_they_are_and_features_are_standardised_all_the_same(images):
    x = torch.from_numpy(images)
    assert torch.equal(Normalizer(images, CPU, "none")(x), x.float())
    features = images.reshape(30, -1).astype(np.float32)
    assert abs(float(Normalizer(features, CPU, "none")(torch.from_numpy(features)).mean())) < 1e-4


def test_a_blank_image_and_a_constant_channel_stay_finite(images):
    images[:, 1] = 9
    assert torch.isfinite(Normalizer(images, CPU)(torch.from_numpy(images))).all()
    assert torch.isfinite(Normalizer(images, CPU, "image")(torch.zeros(2, 3, 6, 5, dtype=torch.uint8))).all()


def test_features_are_standardised_one_by_one():
    features = np.random.default_rng(1).normal(3, [1, 10, 0.1], (200, 3)).astype(np.float32)
    x = Normalizer(features, CPU, "image")(torch.from_numpy(features))
    assert torch.allclose(x.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x.std(0, correction=0), torch.ones(3), atol=1e-4)


@pytest.mark.parametrize("resident_bytes", [0, 1 << 30])
def test_a_stream_gives_every_batch_in_order(images, tmp_path, resident_bytes):
    np.save(tmp_path / "images.npy", images)
    pixels = Pixels(np.load(tmp_path / "images.npy", mmap_mode="r"), CPU, resident_bytes)
    order = torch.randint(30, (200,), generator=torch.Generator().manual_seed(0))
    for batch, rows in zip(pixels.stream(order.split(7)), order.split(7), strict=True):
        assert torch.equal(batch, torch.from_numpy(images[rows.numpy()]))


class Counted:
    """Batches of rows that remember how many were asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __iter__(self):
        for _ in range(100):
            self.asked += 1
            yield torch.tensor([0, 1])


def test_a_stream_reads_a_bounded_number_of_batches_ahead_and_stops_with_its_reader(images):
    batches = Counted()
    stream = Pixels(images, CPU, 0).stream(batches)
    next(stream)
    assert batches.asked == 1 + AHEAD
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alframe-read")]


def test_an_error_of_a_reading_thread_reaches_the_one_who_asks(images):
    with pytest.raises(IndexError):
        list(Pixels(images, CPU, 0).stream([torch.tensor([0]), torch.tensor([99])]))
