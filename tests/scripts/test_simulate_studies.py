"""The simulated studies, fewer than the script makes and with wider bounds; and that they can fail."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # where a script finds its own modules

import simulate_studies as simulate

from alframe.report.statistics import curves


@pytest.mark.parametrize(("n_seeds", "n_strategies"), [(3, 3), (10, 2)])
def test_false_verdicts_intervals_and_power_are_as_stated(n_seeds, n_strategies):
    rng = np.random.default_rng([1, n_seeds])
    assert simulate.false_verdicts(200, n_seeds, n_strategies, rng, heavy=False).value <= 0.05 + 3 * 0.0155
    real = simulate.real_difference(200, n_seeds, n_strategies, rng)
    for key in ("end", "area", "height", "power end", "power area"):
        assert real[key].value >= 0.95 - 3 * 0.0155, key
    assert real["wrong"].value <= 0.05 + 3 * 0.0155
    assert real["level"].value == pytest.approx(0.8, abs=3 * 0.0285)
    assert real["holm"].value >= real["level"].value
    saved = simulate.labels_saved(200, n_seeds, simulate.mean_saved(rng, 20_000), rng)
    assert saved.n > 190
    assert saved.value >= 0.95 - 3 * 0.0155


def test_verdicts_without_correction_would_be_noticed(monkeypatch):
    plain = lambda rows: [one if one.p is None else curves.replace(one, p_holm=one.p) for one in tested(rows)]  # noqa: E731
    tested = curves.compare_paired
    monkeypatch.setattr(curves, "compare_paired", plain)
    assert not simulate.false_verdicts(200, 5, 5, np.random.default_rng(0), heavy=False).is_held


def test_true_spreads_are_those_of_the_curves():
    gone = np.stack(
        [
            np.diff(simulate._values(1, [0.0], rng, heavy), axis=0)[0, 0]
            for rng in [np.random.default_rng(0)]
            for heavy in [False] * 5000
        ]
    )
    assert gone[:, -1].std() == pytest.approx(simulate.SD_END, rel=0.04)
    assert (gone @ simulate.WEIGHTS).std() == pytest.approx(simulate.SD_AREA, rel=0.04)


def test_exit_code_1_where_a_level_is_not_held(monkeypatch, capsys):
    bad = simulate.Share(90, 1000, 0.05, 2, "at most")
    monkeypatch.setattr(simulate, "rows_of", lambda *_: iter([(["3", str(bad)], [bad])]))
    assert simulate.main([]) == 1
    assert "9.0 (!)" in capsys.readouterr().out
    good = simulate.Share(40, 1000, 0.05, 2, "at most")
    monkeypatch.setattr(simulate, "rows_of", lambda *_: iter([(["3", str(good)], [good])]))
    assert simulate.main([]) == 0
