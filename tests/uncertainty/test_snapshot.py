import pytest
import torch
from tests_support import NetworkTask, linear_network

from alframe.errors import ConfigError
from alframe.rng import generator
from alframe.uncertainty.snapshot import Snapshot


def test_each_draw_is_the_network_after_a_cycle_and_the_last_one_comes_first():
    posterior = Snapshot(cycles=3).fit(NetworkTask(linear_network), torch.Generator())
    x = torch.randn(5, 3, generator=generator(0, 0, "x"))
    prediction = posterior.predict(x)
    for draw, cycle in enumerate((2, 1, 0)):
        torch.testing.assert_close(prediction.log_probs[:, draw], linear_network(cycle)(x).log_softmax(dim=-1))
    torch.testing.assert_close(prediction.point_log_probs, prediction.log_probs[:, 0])


@pytest.mark.parametrize("cycles", [1, 0, -2])
def test_fewer_than_two_cycles_are_an_error(cycles):
    with pytest.raises(ConfigError, match=f"at least 2, got {cycles}; .*use uncertainty=point"):
        Snapshot(cycles=cycles)
