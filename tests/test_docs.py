"""The strategy cards: one for each leaf, with the same headings, and parameters that are the leaf's keys and defaults."""

import re
import shlex

import pytest
from tests_support import composed, leaves

from alframe.config.overrides import load
from alframe.handover.cli import export_parser, predict_parser
from alframe.verbs import VERBS

CARDS = leaves("strategy")[0].parents[2] / "docs" / "strategies"
NAMES = [leaf.stem for leaf in leaves("strategy")]
HEADINGS = ["Formula", "Cost", "When it wins, when it loses", "Parameters", "Source"]


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def card(name) -> str:
    return (CARDS / f"{name}.md").read_text(encoding="utf-8")


def test_a_card_has_its_name_and_the_headings_in_order(name, card):
    assert card.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", card, re.MULTILINE) == HEADINGS
    for part in ("Differs from the paper:", "Differs from popular implementations:"):
        assert part in card


def test_the_parameters_of_a_card_are_the_keys_of_its_leaf(name, card):
    node = composed(f"strategy={name}").strategy
    keys = {key for key in node if not key.startswith("_")}
    table = card.split("## Parameters", 1)[1].split("## Source", 1)[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)) == keys
    if not keys:
        assert "None." in table


def test_every_card_is_listed_and_every_listed_card_is_there():
    listed = re.findall(r"\]\(([a-z_]+)\.md\)", (CARDS / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(NAMES)
    assert sorted(path.stem for path in CARDS.glob("*.md") if path.stem != "README") == sorted(NAMES)


def commands() -> list[str]:
    """The `alframe` commands of the README and of the cards, without comments and sweeps."""
    pages = [CARDS.parents[1] / "README.md", *sorted(CARDS.glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = re.findall(r"^alframe ([^|\n]+=[^|\n]+)$", text, re.MULTILINE) + re.findall(
        r"`alframe ([^`\n]+=[^`\n]+)`", text
    )
    found += re.findall(r"`((?:strategy|experiment)=[^`\n]+ [^`\n]*)`", text)
    found = [command for command in found if command.split()[0] not in VERBS]
    return [
        command for command in found if "<" not in command and "mylab" not in command and "--config-dir" not in command
    ]


@pytest.mark.parametrize("command", commands())
def test_a_printed_command_is_one_that_builds(command, tmp_path):
    command = re.sub(r"query\.target=\S+", f"query.target={tmp_path}", command)  # a folder must be there
    words = [word for word in shlex.split(command, comments=True) if word != "-m"]
    assert load([word for word in words if "," not in re.sub(r"\[.*\]", "", word)])  # a list in brackets is no sweep


def test_there_are_printed_commands():
    assert len(commands()) > 10


def handovers() -> list[str]:
    """The `alframe export` and `alframe predict` commands of the README."""
    text = (CARDS.parents[1] / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^alframe ((?:export|predict) .+)$", text, re.MULTILINE)


@pytest.mark.parametrize("command", handovers())
def test_a_printed_hand_over_is_one_that_parses(command):
    name, *words = shlex.split(command, comments=True)
    parser = {"export": export_parser, "predict": predict_parser}[name]()
    assert vars(parser.parse_args(words))


def test_both_hand_over_commands_are_printed():
    assert {command.split()[0] for command in handovers()} == {"export", "predict"}
