"""Small real runs, made by the command's own code, for what is taken out of them."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alframe.cli import execute
from alframe.config.overrides import load

TINY = [
    "dataset.pool_size=60",
    "dataset.test_size=40",
    "dataset.size=16",
    "model.width=4",
    "trainer.epochs=1",
    "trainer.min_steps=6",
    "trainer.warmup=0",
    "budget.initial=20",
    "budget.query_size=5",
    "budget.rounds=1",
    "strategy=random",
    "run.tensorboard=false",
    "run.checkpoint=true",
    "progress=false",
    "threads=1",
    "device=cpu",
]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder for runs."""
    return tmp_path_factory.mktemp("handover")


@pytest.fixture(scope="module", autouse=True)
def cache_found_by_commands(workplace):
    """The cache that commands find by $ALFRAME_CACHE, until the tests of a file are through: others need their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFRAME_CACHE", str(workplace / "cache"))
        yield


@pytest.fixture(scope="session")
def make_run(workplace):
    """`make_run("uncertainty=ensemble", ...)`: the folder of a finished run, the same one for the same overrides; not to be changed."""

    @cache
    def make(*overrides: str) -> Path:
        named = {text.split("=", 1)[0] for text in overrides}
        tiny = [text for text in TINY if text.split("=", 1)[0] not in named]
        if "model" in named:
            tiny.remove("model.width=4")
            if "model=frozen" in overrides and "trainer" not in named:  # fitted without steps
                tiny = [text for text in tiny if not text.startswith("trainer.")]
        plan = load([*tiny, *overrides, f"run.root={workplace / 'runs'}"])
        execute(plan)
        return plan.folder

    return make


@pytest.fixture
def copy_of(tmp_path):
    """A copy of a run folder that a test may change."""

    def copy(run: Path) -> Path:
        return Path(shutil.copytree(run, tmp_path / "copies" / run.parent.name / run.name))

    return copy


@pytest.fixture(scope="session")
def write_photos():
    """`write_photos(folder, {"class name": 5, ...})`: grey PNG files, brighter class by class, of different sizes."""

    def write(folder: Path, classes: dict[str, int]) -> Path:
        rng = np.random.default_rng(0)
        for place, (label, count) in enumerate(classes.items()):
            (folder / label).mkdir(parents=True)
            for i in range(count):
                values = rng.integers(60 * place, 60 * place + 80, (20 + i % 3, 18)).astype(np.uint8)
                Image.fromarray(values).save(folder / label / f"{i}.png")
        return folder

    return write


@pytest.fixture
def photos(write_photos, tmp_path):
    """`photos({"class name": 5, ...})`: such files in a folder of the test's."""

    return lambda classes, name="photos": write_photos(tmp_path / name, classes)
