"""Which functions an exported file may call to build a network: those of torchvision and timm, without weights."""

import pytest
import torch
from torch import nn

from alframe.errors import ConfigError
from alframe.handover.predictor import library_builder, located
from alframe.model.any_module import network_of


def test_a_network_of_torchvision_is_built_without_weights():
    build = library_builder({"_target_": "torchvision.models.resnet18", "_partial_": True, "weights": "DEFAULT"})
    network = network_of(build, (1, 32, 32), 3).eval()
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    "target", ["os.system", "torchvision.models.get_model", "torchvision.models.os.system", "builtins.eval", "None"]
)
def test_any_other_function_is_refused(target):
    assert library_builder({"_target_": target}) is None
    with pytest.raises(ConfigError):
        located({"_target_": target}, (nn.Module,), "network")
