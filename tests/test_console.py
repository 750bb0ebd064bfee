"""The round table reads well as plain text; the bars keep quiet where nobody looks."""

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from alframe.console import RoundTable, duration, progress


def line(round: int, **more: object) -> dict[str, object]:
    plain = {"round": round, "labels": 100 + 10 * round, "test/accuracy": 0.7, "test/balanced_accuracy": 0.65}
    return plain | {"test/nll": 0.55, "test/ece": 0.081, "fit_s": 1.26, "pool_s": 0.3, "select_s": 0.1} | more


def printed(lines: list[dict], binary: bool = False, width: int = 80, summary: bool = False) -> list[str]:
    out = io.StringIO()
    table = RoundTable(binary=binary, console=Console(file=out, width=width))
    for one in lines:
        table.row(one)
    if summary:
        table.summary(lines, Path("runs/study/a_cell_with_a_long_name_that_would_be_wrapped/seed=0"))
    return out.getvalue().splitlines()


def test_header_once_then_a_line_a_round_in_columns():
    text = printed([line(0), line(1), line(10)])
    assert len(text) == 4
    assert text[0].split() == ["round", "labels", "accuracy", "balanced", "NLL", "ECE", "fit", "s", "query", "s"]
    assert len({len(row) for row in text}) == 1
    assert text[3].split() == ["10", "200", "0.700", "0.650", "0.550", "0.081", "1.3", "0.4"]


def test_auroc_has_a_column_for_two_classes_only():
    two = printed([line(0, **{"test/auroc": 0.912})], binary=True)
    assert "AUROC" in two[0]
    assert "0.912" in two[1]
    assert "AUROC" not in printed([line(0)])[0]


def test_what_was_not_measured_is_a_dash():
    last = line(5)
    for key in ("pool_s", "select_s", "test/ece"):
        del last[key]
    assert printed([last])[1].split() == ["5", "150", "0.700", "0.650", "0.550", "–", "1.3", "–"]


def test_a_log_file_holds_plain_unwrapped_lines():
    text = printed([line(0), line(1, stopped="budget spent")], width=30, summary=True)
    assert len(text) == 4
    assert "\x1b" not in "".join(text)


def test_summary_says_why_it_ended_and_the_area():
    first, last = line(0), line(1, stopped="budget spent", **{"test/accuracy": 0.8})
    text = printed([first, last], summary=True)[-1]
    assert text.startswith("budget spent: 2 rounds, 110 labels")
    assert "accuracy 0.800 (mean over the labels 0.750)" in text
    assert text.endswith("seed=0")


def test_summary_of_a_run_without_a_test_set():
    bare = {"round": 0, "labels": 0, "stopped": None}
    assert printed([bare], summary=True)[-1].startswith("Paused: 1 rounds, 0 labels · 0.0 s")


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (185, "3 min 5 s"), (7620, "2 h 7 min"), (59.96, "60.0 s")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_progress_yields_everything_and_is_silent_off_a_terminal(capsys):
    assert list(progress(range(5), "training")) == [0, 1, 2, 3, 4]
    assert list(progress((i for i in "abc"), "pool", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_progress_leaves_the_source_alone_until_it_is_asked():
    taken = []
    loop = progress((taken.append(i) or i for i in range(3)), "pool")
    assert taken == []
    assert next(loop) == 0
    assert taken == [0]


PROGRAM = """
import sys, time
from alframe.console import progress
for _ in progress(range(4), "training", enabled=sys.argv[1] == "on"):
    time.sleep(float(sys.argv[2]))
"""


COUNT = """
import time
from alframe.console import LiveCount
with LiveCount() as count:
    for done in range(21):
        count.show(done, 20, "answers")
        if done == 10:
            count.say("the server is away")
    time.sleep(0.6)
"""


def on_a_terminal(*arguments: str, term: str = "xterm", program: str = PROGRAM) -> str:
    """What a program writes to a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                seen.extend(chunk)
        except OSError:  # how Linux says that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": term, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", program, *arguments], stderr=theirs, check=True, env=environment, timeout=60)
    os.close(theirs)
    reader.join()
    os.close(ours)
    return seen.decode()


def test_progress_draws_a_bar_on_a_terminal_once_the_loop_is_long():
    text = on_a_terminal("on", "0.4")
    assert "training" in text
    assert "/4" in text


@pytest.mark.parametrize(
    ("enabled", "pause", "term"), [("on", "0", "xterm"), ("off", "0.2", "xterm"), ("on", "0.2", "dumb")]
)
def test_progress_is_silent_when_short_when_off_and_on_dumb_terminals(enabled, pause, term):
    assert on_a_terminal(enabled, pause, term=term) == ""


def test_a_live_count_is_a_bar_on_a_terminal_with_lines_above_it():
    text = on_a_terminal(program=COUNT)
    assert "20/20" in text
    assert text.count("the server is away") == 1


def test_a_live_count_is_a_line_for_every_tenth_elsewhere(capsys):
    exec(COUNT)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("answers")] == [
        f"answers: {p} % of 20" for p in range(0, 101, 10)
    ]
    assert lines[6] == "the server is away"
