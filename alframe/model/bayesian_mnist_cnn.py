"""The network of the BatchBALD paper's MNIST experiments."""

from torch import Tensor, nn

from alframe.model.base import Network
from alframe.model.checks import check_images, check_rate


class BayesianMNISTCNN(Network):
    """Two 5x5 convolutions (32, 64 channels) and a layer of 128, with dropout after each; features [b, 128].

    Admits images of at least 16 pixels, meant for 28; raises ConfigError for smaller ones.
    Source: Kirsch et al. 2019, arXiv:1906.08158. Differs: channels are dropped after pooling and ReLU instead of before;
    masks are not negative, so the function is the same and Monte Carlo dropout computes less of it k times.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        channels = check_images("BayesianMNISTCNN", shape, least=16)
        check_rate("dropout", dropout)
        height, width = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(32, 64, 5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Flatten(),
            nn.Linear(64 * height * width, 128),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(128, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))
