"""The environment of a launch: what is needed to repeat it."""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("alframe", "torch", "torchvision", "numpy", "hydra-core", "scikit-learn", "torchmetrics")


def launch(device: torch.device) -> dict[str, Any]:
    """What is needed to repeat this launch: time, versions, source state, device, threads, command."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions,
        "git": _git(Path(__file__).parent.parent),
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "platform": platform.platform(),
    }


def _git(source: Path) -> dict[str, Any] | None:
    """Commit, diff and untracked files of the checkout that alframe runs from; None if it was installed from a wheel."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, check=True, timeout=20)
        return run.stdout.decode("utf-8", errors="replace")  # a diff may contain files of any encoding

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != source.parent:
            return None  # installed inside another project's checkout
        untracked = git("ls-files", "--others", "--exclude-standard").splitlines()
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "diff": git("diff", "HEAD")[:1_000_000],
            "untracked": untracked,
        }
    except (OSError, subprocess.SubprocessError):
        return None
