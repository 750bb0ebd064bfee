"""Tables for papers."""

import pytest

from alframe.report.chapters.blocks import Table
from alframe.report.read.section import sections
from alframe.report.write.tables import escape, latex, tabular


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("mc_dropout & 5 % of #3", r"mc\_dropout \& 5 \% of \#3"),
        ("a\\b{c}$d^2~", r"a\textbackslash{}b\{c\}\$d\textasciicircum{}2\textasciitilde{}"),
        ("0.1 ± 0.2", r"0.1 $\pm$ 0.2"),
        ("end − random · x < y | z", r"end $-$ random $\cdot$ x \textless{} y \textbar{} z"),
        ("two\nlines", "two lines"),
        ("Ä 漢", "Ä 漢"),
    ],
)
def test_special_characters_are_escaped(text, written):
    assert escape(text) == written


def test_a_tabular_has_booktabs_rules_and_a_line_a_row():
    table = Table(("strategy", "seeds", "verdict"), (("a_b", "3", "better"), ("c", "2", "")))
    assert tabular(table).splitlines() == [
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"strategy & seeds & verdict \\",
        r"\midrule",
        r"a\_b & 3 & better \\",
        r"c & 2 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_each_comparison_is_a_table_with_its_own_label(write_run, tmp_path):
    for dataset in ("elpv", "cifar_10"):
        for strategy in ("random", "margin"):
            write_run(strategy, dataset=dataset)
    text = latex(sections([tmp_path])[0], tmp_path).read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") == 2
    assert r"\label{tab:elpv}" in text
    assert r"\caption{cifar\_10: test/accuracy (higher is better)" in text
    assert text.count("{") == text.count("}")
    outside = text.replace(r"\_", "").replace(r"\%", "").replace("% Needs", "")
    assert "_" not in outside.replace("tab:cifar_10", "")
