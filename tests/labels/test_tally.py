"""What each person did, against loops over the ledger."""

import numpy as np
import pytest

from alframe.labels.tally import Work, accuracy, tally


def line(who, index, label=0, kind="query", round=1, **more):
    return {"annotator": who, "index": index, "label": label, "kind": kind, "round": round, "time_s": 0.0, **more}


def test_the_counts_are_those_of_loops_over_the_last_answers():
    rng = np.random.default_rng(0)
    lines = []
    for index in range(60):
        for who in ("anna", "bob", "cora")[: rng.integers(1, 4)]:
            for _ in range(rng.integers(1, 3)):  # some change their answer
                label = None if rng.random() < 0.2 else int(rng.integers(3))
                lines.append(line(who, index, label, time_s=float(rng.integers(0, 4))))
        kind = ("gold", "repeat")[index % 2]
        lines.append(line("bob", index, int(rng.integers(2)), kind, expected=0))
    found = tally(lines)
    last = {(one["annotator"], one["kind"] == "query", one["index"]): one for one in lines}.values()
    for who in ("anna", "bob", "cora"):
        own = [one for one in last if one["annotator"] == who]
        queries = [one for one in own if one["kind"] == "query"]
        expected = {"images": len(queries)}
        expected["seconds"] = np.mean([one["time_s"] for one in own if one["time_s"] > 0])
        shares = []
        for one in queries:
            others = [
                other["label"] == one["label"]
                for other in last
                if other["kind"] == "query" and other["index"] == one["index"] and other["annotator"] != who
                and other["label"] is not None
            ]  # fmt: skip
            if others and one["label"] is not None:
                shares.append(np.mean(others))
        expected["agreement"] = np.mean(shares)
        for kind in ("gold", "repeat"):
            checks = [one["label"] == 0 for one in own if one["kind"] == kind]
            if checks:
                expected[kind] = np.mean(checks)
                assert accuracy(lines)[who][kind] == (sum(checks), len(checks))
        assert found[who].numbers == pytest.approx(expected)
    assert list(accuracy(lines)) == ["bob"]


def test_work_adds_up_over_rounds():
    lines = [line("anna", i, i % 2, round=i % 3, time_s=2.0) for i in range(12)]
    by_round = [tally([one for one in lines if one["round"] == round])["anna"] for round in range(3)]
    assert by_round[0] + by_round[1] + by_round[2] == tally(lines)["anna"] == Work(images=12, timed=12, time_s=24.0)


def test_who_said_nothing_before_a_round_was_closed_did_nothing():
    assert tally([line("nobody", 0, None, answer="unanswered")]) == {}


def test_a_new_class_agrees_once_it_has_a_number():
    lines = [line("anna", 0, 2), line("bob", 0, None, answer="new_class", text="Dent")]
    assert tally(lines)["bob"].numbers["agreement"] == 0
    assert tally(lines, ("good", "bad", "dent"))["bob"].numbers["agreement"] == 1
