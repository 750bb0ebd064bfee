"""What `alframe --help` says of each choice: the comment at the top of its YAML file."""

import subprocess
import sys

import pytest
from tests_support import CONFIGS

from alframe.config.choices import GROUPS, choices, comment
from alframe.config.overrides import load
from alframe.config.schema import composer
from alframe.errors import ConfigError


def test_every_choice_is_listed_with_a_comment():
    with composer():
        text = choices()
    for group in GROUPS:
        part = text.split(f"{group}:\n", 1)[1].split("\n\n", 1)[0]
        for path in (CONFIGS / group).glob("*.yaml"):
            assert comment(path), f"{path} starts with no comment"
            assert f"  {path.stem} " in part
    assert "Smallest gap between the probabilities of the two most likely classes" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_users_own_choices_are_listed_too(tmp_path):
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy/longest.yaml").write_text("# The longest first. Not in the paper.\n_target_: mylab.Longest\n")
    with composer([str(tmp_path)]):
        assert "  longest               The longest first\n" in choices()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# @package _global_\n# alframe experiment=x\n# What it is\n# for. More.\nseed: 1\n", "What it is for"),
        ("# By Huang et al. 2017, arXiv:1704.00109\na: 1\n", "By Huang et al. 2017, arXiv:1704.00109"),
        ("a: 1 # not this\n", ""),
    ],
)
def test_the_comment_is_the_first_sentence_without_commands(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    assert comment(tmp_path / "x.yaml") == said


def test_a_device_that_cannot_work_says_why():
    with pytest.raises(ConfigError, match="Apple's GPU has no float64, .* use device=cpu"):
        load(["device=mps"])


def test_dir_names_the_api_without_importing_it():
    code = "import sys, alframe; print(*dir(alframe)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"Experiment", "fit", "from_dataset", "from_table", "launch", "run"} <= set(done.stdout.split())
