"""Every chapter of the statistics on studies that lack something: it says so, never crashes and never prints nan."""

import numpy as np
import pytest

from alframe.report.chapters import pairwise, results, targets, verdicts
from alframe.report.chapters.blocks import Options, Paragraph, Picture, Table
from alframe.report.chapters.overall import overall
from alframe.report.read.section import sections

RNG = np.random.default_rng(0)


def noisy(*levels):
    return tuple(float(level + RNG.normal(0, 0.01)) for level in levels)


def one_seed(write_run):
    for name in ("random", "bald", "margin"):
        write_run(name, 0, noisy(0.5, 0.6, 0.7))


def two_seeds(write_run):
    for name, seed in (("random", 0), ("random", 1), ("bald", 0), ("bald", 1)):
        write_run(name, seed, noisy(0.5, 0.6, 0.7))


def missing_seeds(write_run):
    for name, seeds in {"random": range(5), "bald": range(2, 7), "margin": (9,), "entropy": range(4)}.items():
        for seed in seeds:
            write_run(name, seed, noisy(0.5, 0.6, 0.7))


def equal_differences(write_run):
    for seed in range(4):
        for name, gain in {"random": 0.0, "bald": 0.1, "margin": 0.0}.items():
            write_run(name, seed, (0.5, 0.6 + gain, 0.7 + gain))


def one_label_count(write_run):
    for seed in range(4):
        for name in ("random", "bald", "margin"):
            write_run(name, seed, noisy(0.7))


def two_strategies(write_run):
    for seed in range(9):
        for name in ("random", "bald"):
            write_run(name, seed, noisy(0.5, 0.6, 0.7))


def no_baseline(write_run):
    for seed in range(3):
        for name in ("entropy", "bald"):
            write_run(name, seed, noisy(0.5, 0.6, 0.7))


def no_common_seed(write_run):
    for i, name in enumerate(("random", "bald")):
        for seed in range(3 * i, 3 * i + 3):
            write_run(name, seed, noisy(0.5, 0.6, 0.7))


def one_run(write_run):
    write_run()


def constant(write_run):
    for seed in range(3):
        for name in ("random", "bald", "margin"):
            write_run(name, seed, (1.0, 1.0, 1.0))


STUDIES = (
    one_seed, two_seeds, missing_seeds, equal_differences, one_label_count, two_strategies, no_baseline, no_common_seed, one_run, constant,
)  # fmt: skip


def words(blocks) -> list[str]:
    found = []
    for block in blocks:
        if isinstance(block, Paragraph):
            found.append(block.text)
        elif isinstance(block, Table):
            assert all(len(row) == len(block.columns) for row in block.rows)
            assert len(block.tones) in (0, len(block.rows))
            found += [block.title, block.note, *block.columns, *(cell for row in block.rows for cell in row)]
        elif isinstance(block, Picture):
            assert block.draw().axes
            found += [block.alt, block.caption]
    return found


@pytest.mark.parametrize("options", [Options(), Options(target=0.65, at=(5, 100, 10_000))], ids=["default", "asked"])
@pytest.mark.parametrize("write", STUDIES, ids=lambda write: write.__name__)
def test_odd_studies_are_reported_without_nan(write_run, tmp_path, write, options):
    write(write_run)
    found, _ = sections([tmp_path])
    texts = []
    for section in found:
        texts += words(verdicts.verdict_sentences(section, options))
        for topic in (verdicts.chapter, results.budgets, targets.chapter, pairwise.chapter, verdicts.power):
            chapter = topic(section, options)
            texts += words(chapter.blocks) if chapter else []
    chapter = overall(found, options)
    texts += words(chapter.blocks) if chapter else []
    assert texts
    assert not [text for text in texts if "nan" in text.lower().split() or "inf" in text.lower().split()]
    assert all("nan" not in text for text in texts)


def test_what_could_not_be_tested_is_said(write_run, tmp_path):
    two_seeds(write_run)
    (section,), _ = sections([tmp_path])
    (why,) = verdicts.power(section, Options()).blocks
    assert why.text.startswith("Nothing was tested: a test needs 3 common seeds")
