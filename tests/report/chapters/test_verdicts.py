"""The sentence for each strategy, and the table of tests behind it."""

from dataclasses import replace

import numpy as np
import pytest

from alframe.report.chapters import phrases, verdicts
from alframe.report.chapters.blocks import Options
from alframe.report.chapters.verdicts import headline, verdict_sentences
from alframe.report.read.section import sections

NOISE = np.array([[0.0, 0.004, 0.001], [0.003, 0.0, 0.002], [0.001, 0.002, 0.005], [0.002, 0.003, 0.0]])


def study(write_run, gains, n_seeds=4, **options):
    for name, gain in gains.items():
        for seed in range(n_seeds):
            sign = 1 if name == "bald" and seed % 2 else -1
            values = np.array([0.5, 0.6, 0.7]) + (gain * (1 + 0.1 * seed) + sign * NOISE[seed % 4]) * np.arange(3)
            write_run(name, seed, tuple(values.tolist()), **options)


def said(section) -> dict[str, tuple[str, str]]:
    return {p.text.split()[0].rstrip(":"): (p.tone, p.text) for p in verdict_sentences(section)}


def test_better_worse_and_inconclusive_with_the_numbers_why(write_run, tmp_path):
    study(write_run, {"random": 0.0, "margin": 0.05, "core_set": -0.04, "bald": 0.001})
    (section,), _ = sections([tmp_path])
    told = said(section)
    assert told["margin"][0] == "good"
    final = section.against["margin"].final
    assert told["margin"][1].startswith(
        f"margin is better than random: at 120 labels its accuracy is {100 * final.mean:.1f} points higher (95 % interval "
        f"+{100 * final.interval[0]:.1f} to +{100 * final.interval[1]:.1f}, p {phrases.p_value(final.p_holm)})"
    )
    assert "fewer labels than random" in told["margin"][1]
    assert told["core_set"][0] == "bad"
    assert "core_set is worse than random: at 120 labels its accuracy is" in told["core_set"][1]
    assert told["bald"][0] == ""
    assert told["bald"][1].startswith("bald: inconclusive. At 120 labels its accuracy is")
    assert told["bald"][1].endswith("; both could be chance.")
    assert list(told) == ["margin", "core_set", "bald", "4"]
    assert told["4"][1].startswith("4 seeds show differences of about")


@pytest.mark.parametrize(
    ("gains", "n_seeds", "tone", "text"),
    [
        (
            {"margin": 0.05, "core_set": 0.03, "bald": 0.001},
            4,
            "good",
            "Did it pay off? Yes, with margin: accuracy 0.8",
        ),
        (
            {"core_set": -0.04, "bald": 0.001},
            4,
            "bad",
            "None of 2 strategies is shown to be better, and core_set is worse than random.",
        ),
        ({"bald": 0.001}, 4, "warning", "Inconclusive: bald is not shown to differ from random."),
        ({"margin": 0.05}, 2, "warning", "Inconclusive: a test needs 3 common seeds"),
    ],
)
def test_the_first_sentence_says_whether_it_paid(write_run, tmp_path, gains, n_seeds, tone, text):
    study(write_run, {"random": 0.0} | gains, n_seeds=n_seeds)
    (section,), _ = sections([tmp_path])
    said = headline(section, Options())
    assert said.tone == tone
    assert said.big
    assert text in said.text
    if tone == "good":
        assert said.text.endswith("%). core_set is also better.")


def test_a_strategy_that_crosses_the_baseline_is_said_to_depend(write_run, tmp_path):
    study(write_run, {"random": 0.0, "margin": 0.05})
    (section,), _ = sections([tmp_path])
    crossed = {n: replace(one, verdict="worse at the end, better in area") for n, one in section.against.items()}
    said = headline(replace(section, against=crossed), Options())
    assert said.text == "Did it pay off? It depends: margin is worse at the end, better in area, compared with random."
    assert said.tone == "warning"


def test_a_difference_in_area_alone_is_reported_as_such(write_run, tmp_path):
    for name, gain in (("random", 0.0), ("margin", 0.1)):
        for seed in range(4):
            end = 0.7 + (0.05 * (-1) ** seed if name == "margin" else 0.0)
            write_run(name, seed, (0.5, 0.6 + gain * (1 + 0.1 * seed), end))
    (section,), _ = sections([tmp_path])
    section = replace(
        section,
        against={
            n: replace(a, area=replace(a.area, p_holm=0.01), verdict="better (area)")
            for n, a in section.against.items()
        },
    )
    assert "on average over 100 to 120 labels, against" in headline(section, Options()).text


def test_of_a_loss_lower_is_said_to_be_better(write_run, tmp_path):
    study(write_run, {"random": 0.0, "margin": 0.05})
    (section,), _ = sections([tmp_path], metric="test/nll")
    tone, text = said(section)["margin"]
    assert tone == "good"
    assert "lower, which is better" in text
    assert "points" not in text


def test_few_seeds_equal_differences_and_no_baseline_are_said(write_run, tmp_path):
    study(write_run, {"random": 0.0, "margin": 0.05}, n_seeds=1, study="one")
    for seed in range(3):
        write_run("random", seed, study="equal", dataset="equal")
        write_run("margin", seed, (0.5, 0.7, 0.8), study="equal", dataset="equal")
    write_run("margin", study="none", dataset="none")
    by_title = {section.title: section for section in sections([tmp_path])[0]}
    assert said(by_title["elpv"])["margin"] == (
        "warning", "margin: inconclusive. It has 1 seed in common with random, and a test needs 3."
    )  # fmt: skip
    assert "in every seed, and without spread there is nothing to test" in said(by_title["equal"])["margin"][1]
    assert verdict_sentences(by_title["none"])[0].tone == "warning"


def test_runs_on_all_labels_are_a_reference(write_run, tmp_path):
    write_run("random", 0, (0.9,), labels=[5000], options={"budget.initial": "all"})
    (section,), _ = sections([tmp_path])
    (paragraph,) = verdict_sentences(section)
    assert (
        paragraph.text == "Everything labelled (5,000 labels), accuracy: random 0.900. A reference, not a comparison."
    )


def test_the_table_names_the_test_that_was_used(write_run, tmp_path):
    study(write_run, {"random": 0.0, "margin": 0.05}, n_seeds=8)
    study(write_run, {"random": 0.0, "margin": 0.05}, n_seeds=4, study="few", dataset="few")
    tests = {"elpv": "sign-flip permutation", "few": "paired t"}
    for section in sections([tmp_path])[0]:
        test = tests.pop(section.title)
        table = verdicts.chapter(section, Options()).blocks[0]
        assert [row[table.columns.index("test")] for row in table.rows] == [test, test]
        assert table.tones == ("good", "good")
    assert not tests
