"""A small convolutional network that trains fast on a CPU and does well with few labels."""

import torch
from torch import Tensor, nn

from alframe.model.base import Network
from alframe.model.checks import check_images, check_rate, check_width


class SmallCNN(Network):
    """Three stages of two 3x3 convolutions with batch-norm, global average pooling, dropout before the last layer; features [b, 2 width].

    The stages have width/2, width and 2 width channels: 20 MFLOP an image of 32x32 at width 32. Images of 48 pixels and more are
    halved by the first convolution (5x5, stride 2), and from 192 again, so that cost does not grow with their area. Meant
    for 28 to 128 pixels, admits 8 and more; raises ConfigError for smaller ones.
    """

    def __init__(self, shape: tuple[int, ...], n_classes: int, *, width: int = 32, dropout: float = 0.5) -> None:
        super().__init__()
        channels = check_images("SmallCNN", shape, least=8)
        check_width("width", width)
        check_rate("dropout", dropout)
