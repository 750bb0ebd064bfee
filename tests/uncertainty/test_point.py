import torch
from tests_support import NetworkTask
from torch import Tensor, nn

from alframe.model.base import Network
from alframe.uncertainty.point import Point


class InPlaceHead(Network):
    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(3, 4))

    def embed(self, x: Tensor) -> Tensor:
        return x.double().float()

    def head(self, h: Tensor) -> Tensor:
        return self.tail(h)


def test_one_draw_is_the_network_with_dropout_off():
    network = InPlaceHead().train()
    posterior = Point().fit(NetworkTask(lambda member: network), torch.Generator())
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    prediction = posterior.predict(x.clone())
    expected = network.tail[2](x.relu()).log_softmax(dim=-1)
    torch.testing.assert_close(prediction.log_probs, expected[:, None])
    torch.testing.assert_close(prediction.point_log_probs, expected)
    torch.testing.assert_close(prediction.features, x)
    assert not network.training
