"""Weights of a user's own: what people save is loaded, and what cannot be is told in one whole line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alframe.config.overrides import load
from alframe.errors import AlframeError, ConfigError, DataError
from alframe.model.weights import load_weights, read_state


class Net(nn.Module):
    def __init__(self, n_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


def made(seed: int = 1, **options) -> Net:
    torch.manual_seed(seed)
    return Net(**options)


STATE = made().state_dict()
BODY = {key: value for key, value in STATE.items() if not key.startswith("fc")}


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        BODY,
        made(n_classes=9).state_dict(),
        {"state_dict": {f"module.{key}": value for key, value in STATE.items()}, "epoch": 3},
        {"model": {f"backbone.encoder.{key}": value for key, value in BODY.items()} | {"proj.weight": torch.zeros(2)}},
        {"model_state_dict": STATE, "optimizer": {"lr": 0.1}, "epoch": 4},
        {"checkpoint": 1, "net": {"params": BODY}},
        {key: value for key, value in STATE.items() if "num_batches" not in key},
    ],
    ids=["state dict", "no fc", "other classes", "DataParallel", "backbone", "checkpoint", "nested", "no counters"],
)
@pytest.mark.parametrize("name", ["w.pth", "w.ckpt"])
def test_what_people_save_is_loaded(saved, name, tmp_path):
    torch.save(saved, tmp_path / name)
    net = made(seed=2)
    load_weights(net, "Net", tmp_path / name)
    assert all(torch.equal(value, BODY[key]) for key, value in net.state_dict().items() if not key.startswith("fc"))


def test_safetensors_too(tmp_path):
    save_file({f"module.{key}": value for key, value in BODY.items()}, tmp_path / "w.safetensors")
    net = made(seed=2)
    load_weights(net, "Net", tmp_path / "w.safetensors")
    assert torch.equal(net.body[0].weight, STATE["body.0.weight"])


def test_what_cannot_be_loaded_is_told_in_one_whole_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(made(), "whole.pth")
    torch.save([1, 2], "list.pth")
    torch.save({"epoch": 3}, "epoch.pth")
    torch.save(made(width=5).state_dict(), "wide.pth")
    torch.save({"features.0.weight": torch.zeros(2), "x": torch.zeros(1)}, "other.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "wide.pth").read_bytes()[:900])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "folder.pth").mkdir()
    save = "save its state dict: torch.save(model.state_dict(), 'weights.pth')."
    told = {
        "whole.pth": f"got a pickled {__name__}.Net, which runs code when it is read; {save}",
        "list.pth": f"got no tensors by name but a list; {save}",
        "epoch.pth": f"got no tensors by name but a dict with epoch; {save}",
        "wide.pth": "of another shape (body.0.weight is [5, 3, 3, 3] instead of [4, 3, 3, 3]); give the file that belongs to the model.",
        "other.pth": "got 6 of its 6 tensors missing (the first: body.0.weight; it has features.0.weight); give the file",
        "cut.pth": "got a file that torch cannot read; it may be cut off",
        "empty.pth": "got an empty file",
        "lfs.pth": "got a file that torch cannot read",
        "text.safetensors": "got a file that safetensors cannot read",
        "folder.pth": "got folder.pth, a folder; correct the path.",
        "whol.pth": "which does not exist; did you mean 'whole.pth'?",
    }
    for name, text in told.items():
        with pytest.raises((ConfigError, DataError)) as caught:
            load_weights(made(), "Net", Path(name))
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match="which runs code when it is read"):
        read_state(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_run_says_so_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(made().state_dict(), "mine.pth")
    for model in ("model=torchvision", "model=frozen_torchvision"):
        name = "model.name=resnet18" if model == "model=torchvision" else "model.trunk=resnet18"
        with pytest.raises(AlframeError, match="hold the state dict of torchvision's resnet18, got 1"):
            load([model, name, "model.weights=./mine.pth"])
        with pytest.raises(ConfigError, match=r"did you mean 'mine.pth'\?"):
            load([model, name, "model.weights=./mein.pth"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pth"]
