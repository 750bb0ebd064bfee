"""A small convolutional network that trains fast on a CPU and does well with few labels."""

from typing import Literal

import torch
from torch import Tensor, nn

from alframe.errors import expect
from alframe.model.base import Network
from alframe.model.checks import check_images, check_rate, check_width
from alframe.model.pooled import Pooled


class SmallCNN(Network):
    """Three stages of two 3x3 convolutions with batch-norm, global pooling, dropout before the last layer.

    The stages have width / 2, width and 2 width channels, halving the image in between: 20 MFLOP for 32x32 pixels at width
    32. From 48 pixels on, the first convolution is 5x5 of stride 2, from 160 on of stride 4, so 64x64 costs as much as 32x32.
    Features are the mean of each channel (`pooling="mean"`, [b, 2 width]: a little better where the object fills the image)
    or mean and maximum, batch-normalised (`"mean_max"`, [b, 4 width]: finds small defects from fewer labels).
    Meant for 28 to 128 pixels, admits 8 and more; raises ConfigError for smaller ones.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        *,
        width: int = 32,
        pooling: Literal["mean", "mean_max"] = "mean_max",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        channels = check_images("SmallCNN", shape, least=8)
        check_width("width", width)
        check_rate("dropout", dropout)
        expect(
            pooling in ("mean", "mean_max"),
            f"Expected model.pooling to be mean or mean_max, got {pooling}; choose one of them.",
        )
        side = min(shape[1:])
        stem = (3, 1) if side < 48 else (5, 2) if side < 160 else (5, 4)
        narrow, middle, wide = max(1, width // 2), width, 2 * width
        n_features = wide if pooling == "mean" else 2 * wide
        self.trunk = nn.Sequential(
            *convolution(channels, narrow, *stem),
            *convolution(narrow, narrow),
            nn.MaxPool2d(2),
            *convolution(narrow, middle),
            *convolution(middle, middle),
            nn.MaxPool2d(2),
            *convolution(middle, wide),
            *convolution(wide, wide),
        )
        self.pool = Mean() if pooling == "mean" else nn.Sequential(MeanMax(), nn.BatchNorm1d(n_features))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(n_features, n_classes)
        self.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU

    def embed(self, x: Tensor) -> Tensor:
        return self.pool(self.trunk(x))

    def pooled(self, x: Tensor) -> Pooled:
        maps = self.trunk(x)
        if isinstance(self.pool, Mean):
            return Pooled((maps,), ("mean",))
        return Pooled((maps, maps), ("mean", "max"), self.pool[1])

    def head(self, h: Tensor) -> Tensor:
        return self.classifier(self.dropout(h))


class Mean(nn.Module):
    """Mean of each channel over the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class MeanMax(nn.Module):
    """Mean of each channel over the image, then the maximum of each."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


def convolution(n_inputs: int, n_outputs: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    """Convolution that keeps the size (divided by `stride`), batch-norm, ReLU."""
    return (
        nn.Conv2d(n_inputs, n_outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(n_outputs),
        nn.ReLU(inplace=True),
    )
