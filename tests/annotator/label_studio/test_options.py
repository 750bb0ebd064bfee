"""What can be known to be wrong before any server is asked."""

from pathlib import Path

import pytest

from alframe.annotator.base import Job
from alframe.annotator.label_studio import LabelStudio
from alframe.annotator.label_studio.annotator import title_of
from alframe.config.overrides import load
from alframe.errors import ConfigError, RunFolderError
from alframe.part import declared
from alframe.record.record import Record


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "localhost:8080"}, "annotator.url as http://HOST:PORT"),
        ({"url": "http://me:secret@host"}, "without user name and password, got 'host'"),
        ({"project": "ab"}, "annotator.project of 3 to 50 characters"),
        ({"per_image": 0}, "annotator.per_image >= 1"),
        ({"poll_s": 0.0}, "annotator.poll_s above 0"),
        ({"check_rate": 1.5}, "annotator.check_rate in"),
        ({"classes": ("$x", "y")}, r"start with '\$'"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, told):
    job = Job(options.get("classes", ("good", "bad")))
    with pytest.raises(ConfigError, match=told):
        LabelStudio(**{key: value for key, value in options.items() if key != "classes"}).desk(job)


def test_as_many_people_as_wanted_may_label_an_image():
    assert LabelStudio(per_image=5).rules(("good", "bad")).per_image == 5


@pytest.mark.parametrize(
    ("folder", "title"),
    [
        ("runs/tiles/cell/seed=0", "tiles/cell/seed=0"),
        ("runs/tiles/" + 60 * "c" + "-entropy/seed=0", "tiles/…" + 28 * "c" + "-entropy/seed=0"),
        ("runs/" + 60 * "s" + "/cell/seed=0", 50 * "s"),
    ],
)
def test_a_title_fits_and_keeps_study_and_seed(folder, title):
    assert title_of(Path(folder)) == title
    assert len(title) <= 50


def test_where_the_server_is_does_not_belong_to_a_run(tmp_path):
    one, other = (
        load([f"run.root={tmp_path}", "annotator=label_studio", *more])
        for more in (
            [],
            [
                "annotator.url=http://elsewhere:80",
                "annotator.wait=false",
                "annotator.poll_s=1",
                "annotator.project=Tiles",
            ],
        )
    )
    assert one.folder == other.folder
    assert one.identity == other.identity
    assert one.identity["annotator"]["per_image"] == 1


def test_a_run_with_a_project_is_not_overwritten(tmp_path):
    """Answers may be on the server that no launch has seen yet. A mark alone is no project."""
    path = tmp_path / "label_studio" / "project.json"
    path.parent.mkdir()
    path.write_text('{"mark": "alframe-run-1"}')
    known = declared({}, has_answers=LabelStudio().has_answers)
    Record(tmp_path, {"seed": 0}, known, overwrite=True, tensorboard=False).close()
    path.parent.mkdir()
    path.write_text('{"mark": "alframe-run-1", "project": 3, "url": "http://localhost:8080"}')
    with pytest.raises(RunFolderError, match="or may have some"):
        Record(tmp_path, {"seed": 0}, known, overwrite=True, tensorboard=False)
    assert path.is_file()
