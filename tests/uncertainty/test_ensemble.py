import pytest
import torch
from tests_support import NetworkTask
from torch import Tensor, nn

from alframe.errors import ConfigError
from alframe.model.base import Network
from alframe.rng import generator, scoped
from alframe.uncertainty.ensemble import Ensemble


class Linear(Network):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def embed(self, x: Tensor) -> Tensor:
        return 2 * x

    def head(self, h: Tensor) -> Tensor:
        return self.layer(h.mul_(3))  # in place: the features must not feel it


def train(member: int) -> Linear:
    with scoped(generator(0, member, "init")):
        return Linear()


def test_each_draw_is_one_member():
    posterior = Ensemble(members=3).fit(NetworkTask(train), torch.Generator())
    x = torch.randn(5, 3, generator=generator(0, 0, "x"))
    prediction = posterior.predict(x)
    for member in range(3):
        expected = train(member).layer(6 * x).log_softmax(dim=-1)
        torch.testing.assert_close(prediction.log_probs[:, member], expected)
    torch.testing.assert_close(prediction.point_log_probs, prediction.log_probs[:, 0])
    torch.testing.assert_close(prediction.features, 2 * x)


@pytest.mark.parametrize("members", [1, 0, -2])
def test_fewer_than_two_members_are_an_error(members):
    with pytest.raises(ConfigError, match=f"at least 2, got {members}; .*use uncertainty=point"):
        Ensemble(members=members)
