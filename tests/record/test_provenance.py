"""Where a run came from, as its folder tells it."""

import subprocess

from alframe.record.record import _git


def test_the_diff_of_the_checkout_may_hold_files_of_any_encoding(tmp_path):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=anna", "-c", "user.email=anna@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    source = tmp_path / "alframe"
    source.mkdir()
    notes = source / "notes.txt"
    notes.write_bytes(b"gut\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    notes.write_bytes("für\n".encode("latin-1"))
    (source / "new.txt").touch()
    found = _git(source)
    assert found is not None
    assert len(found["commit"]) == 40
    assert "-gut\n+f\ufffdr\n" in found["diff"]
    assert found["untracked"] == ["new.txt"]
