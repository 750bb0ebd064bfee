"""Weights that look trained, for models whose published ones would have to be downloaded."""

import pytest
import torch
import torchvision

from alframe.rng import generator, scoped


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A file of weights for resnet18; batch-norm statistics that matter when they are folded away."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    with scoped(generator(0, 0, "weights")):
        model = torchvision.models.resnet18()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), path)
    return str(path)
