"""Why a run failed: kept in its folder until it goes on, named by the report and at the end of a sweep."""

import pytest

from alframe.cli import Outcome
from alframe.errors import DataError, RunFolderError, Waiting
from alframe.record.failure import failure_of, noting_failure


def fail(folder, error):
    with pytest.raises(type(error)), noting_failure(folder):
        raise error


def test_an_error_is_kept_until_the_run_goes_on(tmp_path):
    assert failure_of(tmp_path) is None
    fail(tmp_path, DataError("Expected photos, got none;\nput some there."))
    assert failure_of(tmp_path) == "Expected photos, got none;"
    fail(tmp_path, ValueError("odd"))
    assert failure_of(tmp_path) == "ValueError: odd"
    fail(tmp_path, Waiting("for people"))
    assert failure_of(tmp_path) is None, "it waits"
    fail(tmp_path, ValueError("odd"))
    fail(tmp_path, RunFolderError("of other data"))
    assert failure_of(tmp_path) == "ValueError: odd", "a refusal changes nothing"
    with noting_failure(tmp_path):
        pass
    assert not (tmp_path / "failed.json").exists()
    (tmp_path / "failed.json").write_text("{")
    assert failure_of(tmp_path) == "for a reason that cannot be read"


def test_the_end_of_a_sweep_says_how_many_failed_which_and_why(tmp_path, capsys):
    outcome = Outcome()
    outcome.failed(DataError("Expected a, got b."), tmp_path / "one")
    outcome.failed(DataError("Expected c, got d."))
    outcome.cells.append(tmp_path / "two")
    capsys.readouterr()
    outcome.say_failures()
    assert capsys.readouterr().err.splitlines() == [
        "error: 2 of 3 cells failed; re-run the same command to try them again:",
        f"error:   {tmp_path / 'one'}: Expected a, got b.",
        "error:   a cell that could not be built: Expected c, got d.",
    ]
    alone = Outcome()
    alone.failed(DataError("Expected a, got b."), tmp_path / "one")
    capsys.readouterr()
    alone.say_failures()
    assert not capsys.readouterr().err
