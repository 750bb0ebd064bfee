"""One virtual environment for each peer, made on first use in the cache folder.

A peer's environment sees the packages of this one (torch, numpy, scikit-learn, which are large) behind its own, so only what is
missing, or what the peer pins to another version, is installed into it.
"""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from alframe.dataset.cache import default_cache

SCRIPTS = Path(__file__).parents[1]


class Unavailable(Exception):
    """A peer that could not be installed or imported; the message is one line."""


@dataclass(frozen=True)
class Package:
    """What to install for a peer, and the import that proves it. `why` explains every deviation from a plain `pip install`."""

    name: str
    version: str
    module: str
    others: tuple[str, ...] = ()
    no_deps: bool = False
    why: str = ""

    @property
    def requirements(self) -> list[str]:
        return [f"{self.name}=={self.version}", *self.others]


PACKAGES = {
    package.name: package
    for package in (
        Package("scikit-activeml", "1.0.1", "skactiveml.pool"),
        Package(
            "baal",
            "2.1.0",
            "baal.active.heuristics",
            ("structlog>=22,<23", "tqdm>=4.62"),
            no_deps=True,
            why="without jupyter, which it requires and does not import",
        ),
        Package("batchbald-redux", "2.0.5", "batchbald_redux.batchbald"),
        Package(
            "bmdal-reg",
            "3.0.2",
            "bmdal_reg.bmdal.algorithms",
            ("numpy==1.26.4",),
            why="with numpy 1.26.4: it uses np.Inf, which numpy 2 has removed, and does not pin numpy",
        ),
        Package("faiss-cpu", "1.15.1", "faiss"),
        Package("modAL-python", "0.4.2.1", "modAL.disagreement"),
        Package("small-text", "1.4.1", "small_text"),
        Package("laplace-torch", "0.3", "laplace"),
    )
}


def python_of(name: str, root: Path | None = None) -> Path:
    """The interpreter of the peer's environment, which is made if it is not there. Raises `Unavailable` with one line."""
    package = PACKAGES[name]
    key = json.dumps([package.requirements, package.no_deps, sys.version, sysconfig.get_path("purelib")])
    folder = (root or default_cache()) / f"peers-{hashlib.sha256(key.encode()).hexdigest()[:12]}-{name}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        done = folder / "installed"
        if not done.exists():
            _install(package, folder, python)
            done.touch()
    return python


def clean_environment() -> dict[str, str]:
    """Ours, without what would leak into another interpreter."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def _install(package: Package, folder: Path, python: Path) -> None:
    print(f"making the environment of {package.name} {package.version}", file=sys.stderr, flush=True)
    _call([sys.executable, "-m", "venv", "--clear", str(folder)], package.name)
    inside = next((folder / "lib").glob("python*")) / "site-packages"
    (inside / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ["--no-deps"] if package.no_deps else []
    _call([str(python), "-m", "pip", "install", "--quiet", *options, *package.requirements], package.name)
    _call([str(python), "-c", f"import {package.module}"], package.name)


def _call(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise Unavailable(lines[-1].strip() if lines else f"{name}: exit status {done.returncode}")
