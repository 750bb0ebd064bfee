import pytest
import torch
from tests_support import NetworkTask, linear_network

from alframe.errors import ConfigError
from alframe.rng import generator
from alframe.uncertainty.tta import TTA


def test_each_draw_is_the_network_on_one_view():
    uncertainty = TTA(draws=3)
    assert uncertainty.n_augmented == 2
    posterior = uncertainty.fit(NetworkTask(linear_network), torch.Generator())
    x = torch.randn(5, 3, generator=generator(0, 0, "x"))
    views = [x.flip(1), x + 1]
    prediction = posterior.predict(x, views.__getitem__)
    for draw, seen in enumerate([x, *views]):
        torch.testing.assert_close(prediction.log_probs[:, draw], linear_network()(seen).log_softmax(dim=-1))
    torch.testing.assert_close(prediction.features, 2 * x)
    torch.testing.assert_close(prediction.point_log_probs, prediction.log_probs[:, 0])


@pytest.mark.parametrize("draws", [1, 0, -2])
def test_fewer_than_two_looks_are_an_error(draws):
    with pytest.raises(ConfigError, match=f"at least 2, got {draws}; .*use uncertainty=point"):
        TTA(draws=draws)
