import pytest
import torch
from tests_support import NetworkTask, linear_network

from alframe.errors import ConfigError
from alframe.rng import generator
from alframe.uncertainty.ensemble import Ensemble


def test_each_draw_is_one_member():
    posterior = Ensemble(members=3).fit(NetworkTask(linear_network), torch.Generator())
    x = torch.randn(5, 3, generator=generator(0, 0, "x"))
    prediction = posterior.predict(x)
    for member in range(3):
        expected = linear_network(member).layer(6 * x).log_softmax(dim=-1)
        torch.testing.assert_close(prediction.log_probs[:, member], expected)
    torch.testing.assert_close(prediction.point_log_probs, prediction.log_probs[:, 0])
    torch.testing.assert_close(prediction.features, 2 * x)


@pytest.mark.parametrize("members", [1, 0, -2])
def test_fewer_than_two_members_are_an_error(members):
    with pytest.raises(ConfigError, match=f"at least 2, got {members}; .*use uncertainty=point"):
        Ensemble(members=members)
