"""ResNet-18 for small images (CIFAR stem) and for large ones (ImageNet stem)."""

from typing import Literal

import torchvision
from torch import Tensor, nn

from alframe.errors import expect
from alframe.model.base import Network
from alframe.model.checks import check_images, check_rate
from alframe.model.pooled import Pooled, pooled_by


class ResNet18(Network):
    """torchvision's ResNet-18 with dropout before the last layer; features [b, 512].

    `stem="cifar"` starts with a 3x3 convolution of stride 1 and no max-pool (images of at least 8 pixels), `"imagenet"`
    with a 7x7 of stride 2 and a max-pool (at least 32). Raises ConfigError for images that are smaller.
    Source: He et al. 2016, arXiv:1512.03385. Differs: the CIFAR stem as is usual since, and the dropout.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        expect(
            stem in ("cifar", "imagenet"),
            f"Expected model.stem to be cifar or imagenet, got {stem}; choose one of them.",
        )
        channels = check_images(f"ResNet-18 with the {stem} stem", shape, least=8 if stem == "cifar" else 32)
        check_rate("dropout", dropout)
        self.trunk = torchvision.models.resnet18()
        if stem == "cifar":
            self.trunk.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
            self.trunk.maxpool = nn.Identity()
        else:
            self.trunk.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.trunk.fc.in_features, n_classes)
        self.trunk.fc = nn.Identity()

    def embed(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def pooled(self, x: Tensor) -> Pooled | None:
        return pooled_by(self.trunk, x)

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))
