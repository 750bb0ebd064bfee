import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from alframe.errors import ConfigError, DataError
from alframe.model.torchvision_model import Torchvision, load_model, remove_last_layer

FEATURES = {
    "alexnet": 4096,
    "vgg11": 4096,
    "googlenet": 1024,
    "inception_v3": 2048,
    "densenet121": 1024,
    "mobilenet_v3_small": 1024,
    "efficientnet_b0": 1280,
    "shufflenet_v2_x0_5": 1024,
    "convnext_tiny": 768,
    "vit_b_16": 768,
    "swin_t": 768,
}


@pytest.mark.parametrize("name", FEATURES)
def test_any_family_is_cut_before_its_last_linear_layer(name):
    with torch.device("meta"):  # shapes without weights
        model = load_model(name, None)
        n_features = remove_last_layer(model, name)
        side = 299 if name == "inception_v3" else 224
        for mode in (model.train(), model.eval()):  # no tuple of auxiliary logits in training either
            assert mode(torch.zeros(2, 3, side, side)).shape == (2, n_features)
    assert n_features == FEATURES[name]


def test_equals_torchvision_with_its_own_last_layer():
    network = Torchvision((3, 64, 64), 7, name="mobilenet_v3_small").eval()
    reference = torchvision.models.mobilenet_v3_small(num_classes=7).eval()
    weights = {f"classifier.3.{key}": value for key, value in network.classifier.state_dict().items()}
    reference.load_state_dict(network.trunk.state_dict() | weights)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(x), reference(x))


def test_the_models_own_last_dropout_gives_way_to_ours():
    network = Torchvision((3, 32, 32), 7, name="mobilenet_v3_small", dropout=0.4)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.4]
    with torch.device("meta"):
        trunk = load_model("vgg11", None)
        remove_last_layer(trunk, "vgg11")
    assert [module.p for module in trunk.modules() if isinstance(module, nn.Dropout)] == [0.5], "its first one stays"


def test_grey_images_are_repeated_to_three_channels():
    network = Torchvision((1, 32, 32), 7, name="resnet18").eval()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(network(x), network(x.repeat(1, 3, 1, 1)))


def test_an_unknown_name_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"got 'resnet81'; did you mean 'resnet18'\?"):
        Torchvision((3, 32, 32), 7, name="resnet81")


def test_a_model_that_does_not_end_in_a_linear_layer_is_an_error():
    with pytest.raises(ConfigError, match="squeezenet1_1, which ends in AdaptiveAvgPool2d"):
        Torchvision((3, 64, 64), 7, name="squeezenet1_1")


@pytest.mark.parametrize(("name", "side"), [("alexnet", 16), ("densenet121", 8)])
def test_a_size_that_the_model_does_not_admit_is_one_clear_error(name, side):
    with pytest.raises(ConfigError, match=rf"admits, got \(3, {side}, {side}\) .*resize the images"):
        Torchvision((3, side, side), 7, name=name)


def test_unknown_weights_are_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"got 'IMAGENET1K_V2'; did you mean 'IMAGENET1K_V1'\?"):
        Torchvision((3, 32, 32), 7, name="resnet18", weights="IMAGENET1K_V2")


def test_weights_that_cannot_be_downloaded_are_an_error_that_says_where_to_put_them(tmp_path):
    folder = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "a file, not a folder" / "hub")
    (tmp_path / "a file, not a folder").write_text("")
    try:
        with pytest.raises(
            DataError, match=r"Expected to download the weights ResNet18_Weights.*put that file into .*checkpoints"
        ):
            Torchvision((3, 32, 32), 7, name="resnet18", weights="DEFAULT")
    finally:
        torch.hub.set_dir(folder)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_can_come_from_a_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = torchvision.models.resnet18().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    network = Torchvision((3, 32, 32), 7, name="resnet18", weights=str(path))
    assert all(torch.equal(value, state[key]) for key, value in network.trunk.state_dict().items())


def test_a_missing_file_of_weights_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="path of an existing file"):
        Torchvision((3, 32, 32), 7, name="resnet18", weights=str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("damage", ["not weights", "another model"])
def test_a_file_of_other_weights_is_an_error(tmp_path, damage):
    path = tmp_path / "weights.pth"
    if damage == "not weights":
        path.write_bytes(b"junk")
    else:
        torch.save({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="state dict"):
        Torchvision((3, 32, 32), 7, name="resnet18", weights=str(path))
