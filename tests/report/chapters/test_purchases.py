"""What was bought, against naive counts."""

import itertools

import numpy as np
import pytest
from scipy.stats import entropy

from alframe.report.chapters.blocks import Options, Paragraph, Picture, Table
from alframe.report.chapters.purchases import chapter, class_shares, discovered, evenness, wanted_classes
from alframe.report.read.section import sections
from alframe.report.write.figures import render


def bought_of(answers, kind="query", first_round=1):
    """Ledger lines from (index, label) by round."""
    return [
        {"index": index, "label": label, "kind": kind, "round": first_round + r, "rank": rank}
        for r, asked in enumerate(answers)
        for rank, (index, label) in enumerate(asked)
    ]


def the_section(tmp_path, **options):
    (section,), _ = sections([tmp_path], **options)
    return section


def test_evenness_is_the_entropy_over_its_maximum():
    labels = [0, 0, 0, 1, 2, 2]
    assert evenness(labels, 4) == pytest.approx(entropy([3, 1, 2], base=4))
    assert evenness([0, 1, 2, 3], 4) == pytest.approx(1)
    assert evenness([2, 2], 4) == 0


def test_class_shares_against_a_naive_count():
    rng = np.random.default_rng(1)
    seeds = {
        seed: bought_of(
            [[(i, c if c < 3 else None) for i, c in enumerate(rng.integers(4, size=6).tolist())] for _ in range(4)],
            first_round=0,
        )
        for seed in range(3)
    }
    found = class_shares(seeds, 3)
    for round, c in itertools.product(range(4), range(3)):
        shares = []
        for lines in seeds.values():
            labels = [line["label"] for line in lines if line["round"] == round and line["label"] is not None]
            shares += [labels.count(c) / len(labels)] if labels else []
        assert found[round, c] == pytest.approx(np.mean(shares))
    assert found.sum(axis=1) == pytest.approx(1)


def test_a_round_without_an_answer_has_no_shares():
    found = class_shares({0: bought_of([[(0, 1)], [(1, None)]], first_round=0)}, 2)
    assert found[0].tolist() == [0, 1]
    assert np.isnan(found[1]).all()


def test_the_discovery_curve_counts_in_the_order_of_asking():
    bought = {"a": {0: bought_of([[(0, 1), (1, 0)], [(2, None), (3, 1)]]), 1: bought_of([[(0, 0), (1, 0), (2, 1)]])}}
    curve = discovered(bought, (1,))["a"]
    assert curve.labels.tolist() == [1, 2, 3]
    assert curve.values.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_class_1_of_two_is_looked_for_and_of_more_the_rarest(write_run, write_ledger, tmp_path):
    write_ledger(write_run("random", classes="abc", labels=[4, 6, 8]), [[0, 0, 1, 2], [0, 1], [1, 1]])
    section = the_section(tmp_path)
    assert wanted_classes(section, section.bought()) == (2,)
    write_ledger(write_run("random", study="two", labels=[4, 6, 8]), [[1, 1, 1, 0], [1, 1], [1, 1]])
    section = the_section(tmp_path / "two")
    assert wanted_classes(section, section.bought()) == (1,)


def test_a_chapter_says_what_was_found_and_what_could_not_be_used(write_run, write_ledger, tmp_path):
    for seed in range(2):
        write_ledger(
            write_run("random", seed, labels=[4, 6, 8]), [[0, 0, 1, 1], [0, None], [None, 1]], start=100 * seed
        )
        write_ledger(write_run("bald", seed, labels=[4, 6, 8]), [[0, 0, 1, 1], [1, 1], [1, 1]], start=100 * seed)
    found = chapter(the_section(tmp_path), Options())
    tables = [block for block in found.blocks if isinstance(block, Table)]
    assert tables[0].rows == (("random", "8", "3.0 ± 0.0", "37.5 %", "2"), ("bald", "8", "6.0 ± 0.0", "75.0 %", "0"))
    assert tables[1].rows[1] == ("bald", "0.000 ± 0.000", "defective (100 %)", "1")
    pictures = {block.name: block for block in found.blocks if isinstance(block, Picture)}
    assert list(pictures) == ["discovery", "classes", "overlap"]
    assert "random and bald 1.00" in pictures["overlap"].alt
    assert any("bought the same images" in block.text for block in found.blocks if isinstance(block, Paragraph))
    for picture in pictures.values():
        assert render(picture.draw).png


def test_purchases_end_at_the_labels_that_all_runs_have(write_run, write_ledger, tmp_path):
    write_ledger(write_run("random", labels=[4, 6, 8]))
    write_ledger(write_run("bald", values=(0.5, 0.6), labels=[4, 6]))
    found = the_section(tmp_path).bought()
    assert [len(lines) for seeds in found.values() for lines in seeds.values()] == [6, 6]


def test_validation_images_count_where_the_budget_says_so(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("random", labels=[4, 6, 8]))
    text = (folder / "ledger.jsonl").read_text().replace('"initial"', '"validation"', 2)
    (folder / "ledger.jsonl").write_text(text)
    (run,) = the_section(tmp_path).runs
    assert len(run.bought(8)) == 8
    run.config["budget"]["count_validation"] = False
    assert len(run.bought(8)) == 6


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "not json\n",
        '{"index": 3}\n',
        "[1]\n",
        '{"index": 1, "round": 0, "rank": 0, "kind": "query", "label": "bad"}\n',
    ],
)
def test_a_damaged_ledger_is_left_out_and_reported(write_run, write_ledger, tmp_path, damage):
    write_ledger(write_run("random"))
    folder = write_ledger(write_run("bald"))
    (folder / "ledger.jsonl").write_text(damage + (folder / "ledger.jsonl").read_text() if damage else "")
    found = chapter(the_section(tmp_path), Options())
    assert found.blocks[0] == Paragraph(
        "1 of 2 ledgers are missing or damaged and left out of this chapter.", "warning"
    )
    assert [row[0] for row in found.blocks[1].rows] == ["random"]


def test_a_torn_last_line_of_a_ledger_is_not_read(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("random"))
    whole = (folder / "ledger.jsonl").read_text()
    (folder / "ledger.jsonl").write_text(whole + whole.splitlines()[-1][:50])
    (run,) = the_section(tmp_path).runs
    assert len(run.ledger) == len(whole.splitlines())


def test_without_ledgers_there_is_no_chapter(write_run, tmp_path):
    write_run("random")
    assert chapter(the_section(tmp_path), Options()) is None


def test_many_classes_and_many_strategies_can_be_drawn(write_run, write_ledger, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(13):
        folder = write_run(
            f"strategy_with_a_long_name_{k}", labels=[40, 60, 80], classes=[f"class number {c}" for c in range(30)]
        )
        write_ledger(folder, [rng.integers(30, size=n).tolist() for n in (40, 20, 20)], start=10 * k, predicted=0)
    for block in chapter(the_section(tmp_path), Options()).blocks:
        if isinstance(block, Picture):
            drawn = render(block.draw)
            assert len(drawn.png) > 2000
