"""Wide residual network of 28 layers."""

from torch import Tensor, nn

from alframe.model.base import Network
from alframe.model.checks import check_images, check_rate, check_width
from alframe.model.pooled import Pooled, pooled_by


class WideResNet28(Network):
    """WRN-28-`width`: dropout between the convolutions of each block and before the last layer; features [b, 64 width].

    Admits images of at least 8 pixels, meant for 32; raises ConfigError for smaller ones. With `block_dropout` above 0
    almost the whole network is stochastic, and Monte Carlo dropout costs almost k passes.
    Source: Zagoruyko & Komodakis 2016, arXiv:1605.07146. Differs: dropout before the last layer too.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        *,
        width: int = 10,
        block_dropout: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        channels = check_images("WideResNet-28", shape, least=8)
        check_width("width", width)
        check_rate("block_dropout", block_dropout)
        check_rate("dropout", dropout)
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
        n_inputs = 16
        for stage in range(3):
            n_outputs = 16 * width * 2**stage
            for block in range(4):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(WideBlock(n_inputs, n_outputs, stride, block_dropout))
                n_inputs = n_outputs
        layers += [nn.BatchNorm2d(n_inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(n_inputs, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def pooled(self, x: Tensor) -> Pooled | None:
        return pooled_by(self.trunk, x)

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))


class WideBlock(nn.Module):
    """Pre-activation block: twice batch-norm, ReLU, 3x3 convolution.

    Where the shape changes, the shortcut is a 1x1 convolution after the first activation.
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(n_inputs), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(n_inputs, n_outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(n_outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(n_outputs, n_outputs, 3, padding=1, bias=False),
        )
        self.shortcut = None if n_inputs == n_outputs else nn.Conv2d(n_inputs, n_outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        return self.residual(activated) + (x if self.shortcut is None else self.shortcut(activated))
