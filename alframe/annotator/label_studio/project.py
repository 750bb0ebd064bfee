"""A run's project on the server: made once, found again by a mark of its own, with a task for each question and what was said of it."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alframe.annotator.label_studio.failures import NotFound
from alframe.annotator.label_studio.interface import interface, offered, words
from alframe.errors import ConfigError, DataError
from alframe.record.files import read_json, write_atomically
from alframe.record.layout import Layout

if TYPE_CHECKING:  # it needs httpx
    from alframe.annotator.label_studio.client import Client

MODEL = "alframe"
"""The name under which predictions are shown; one for all rounds, since a project shows those of one model."""
PLACE = "label_studio"
"""The subfolder of a run."""
LONGEST_TITLE = 50
UPLOAD_FILES, UPLOAD_BYTES = 25, 16 << 20  # of one request

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What the server has of one image of a round. `annotations` oldest change first; `touched` where someone has begun to work on it,
    `finished` where the server shows it to nobody else.
    """

    id: int
    question: str
    round: int
    touched: bool
    finished: bool
    annotations: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Project:
    """One project on a server. Every call may be repeated: what is there already is found and not made again."""

    client: "Client"
    id: int

    @property
    def url(self) -> str:
        return f"{self.client.url}/projects/{self.id}"

    def tasks(self, round: int | None = None) -> list[Task]:
        """All tasks, or those of a round, in the order in which they were made. Tasks that others made here are passed over."""
        query: dict[str, Any] = {"ordering": ["tasks:id"]}
        if round is not None:
            of_round = {"filter": "filter:tasks:data.round", "operator": "equal", "type": "Number", "value": round}
            query["filters"] = {"conjunction": "and", "items": [of_round]}
        found = self.client.pages("/api/tasks/", "tasks", project=self.id, fields="all", query=json.dumps(query))
        return [_task(item) for item in found if "id" in item["data"] and isinstance(item["data"].get("round"), int)]

    def remove(self, task: Task) -> None:
        """Delete a task, unless someone has begun to work on it since it was looked at: an answer goes with its task."""
        path = f"/api/tasks/{task.id}/"
        with suppress(NotFound):
            if not _touched(self.client.get(path)):
                self.client.delete(path)

    def finish(self, task: Task) -> None:
        """Let a task be shown to nobody else."""
        if not task.finished:
            self._set(task, overlap=max(1, len(task.annotations)), is_labeled=True)

    def reopen(self, task: Task) -> None:
        """Let a task be shown to one more person."""
        if task.finished:
            self._set(task, overlap=len(task.annotations) + 1, is_labeled=False)

    def _set(self, task: Task, **values: Any) -> None:
        with suppress(NotFound):
            self.client.patch(f"/api/tasks/{task.id}/", values)

    def pictures(self) -> dict[str, str]:
        """The uploaded images: their addresses by the names under which they were uploaded."""
        uploads = self.client.get(f"/api/projects/{self.id}/file-uploads", all="true")
        return {_uploaded_as(item["file"]): f"/data/{item['file']}" for item in uploads}

    def upload(self, pictures: Sequence[tuple[str, Callable[[], bytes]]], say: Say) -> None:
        """Bring images, name and content, into the server's own media folder: it need not see our disk, nor we its."""
        batch: list[tuple[str, bytes]] = []
        for done, (name, read) in enumerate(pictures, 1):
            batch.append((name, read()))
            if done == len(pictures) or len(batch) == UPLOAD_FILES or sum(len(c) for _, c in batch) > UPLOAD_BYTES:
                self.client.upload(f"/api/projects/{self.id}/import", batch, commit_to_project="false")
                say(f"{done} of {len(pictures)} images uploaded")
                batch = []

    def add(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Make tasks, shown in this order."""
        self.client.post(f"/api/projects/{self.id}/import", list(tasks))

    def annotators(self) -> dict[int | None, str]:
        """The names (e-mail addresses) of the server's users by number."""
        users = self.client.get("/api/users/")
        return {user["id"]: user["email"] or user["username"] for user in users}


def _task(item: Mapping[str, Any]) -> Task:
    annotations = sorted(item["annotations"], key=lambda a: (a["updated_at"], a["id"]))
    data, finished = item["data"], len(annotations) >= item["overlap"]
    return Task(item["id"], str(data["id"]), data["round"], _touched(item), finished, annotations)


def _touched(item: Mapping[str, Any]) -> bool:
    """Whether anyone has begun; of the drafts themselves one sees only one's own."""
    return bool(item["annotations"] or item.get("draft_exists"))


def _uploaded_as(file: str) -> str:
    """`upload/3/8d7f71c6-NAME` was uploaded as NAME."""
    return file.rsplit("/", 1)[-1].split("-", 1)[-1]


def open_project(
    client: "Client", folder: Path, title: str, classes: Sequence[str], per_image: int, say: Say
) -> Project:
    """The project of the run in `folder`, made if there is none yet: it is known by a mark in its description, and by its number.

    The mark is stored before anything is made, the number after, so that a kill in between loses neither. Raises
    `ConfigError` where the project is gone, there are two, or its labelling interface lacks a class.
    """
    path = _file(folder)
    known = read_json(path, ("mark",))
    if known is None:
        known = {"mark": f"alframe-run-{uuid.uuid4().hex[:16]}"}
        write_atomically(path, json.dumps(known))
    if known.get("url", client.url) != client.url:
        say(f"the run's project was on {known['url']}; it is looked for on {client.url}")
    projects = list(client.pages("/api/projects/", "results", include="id,title,description,label_config"))
    found = [p for p in projects if known["mark"] in (p.get("description") or "")]
    ours = [p for p in found if p["id"] == known.get("project")] or found
    if not ours and "project" in known:
        raise ConfigError(
            f"Expected this run's project {known['project']} on {client.url}, got none: it was deleted, or this is another server. The "
            f"answers seen so far are in {Layout(folder).ledger}; give the project back, or delete {path} to have it made again."
        )
    if len(ours) > 1:
        numbers = " and ".join(str(p["id"]) for p in ours)
        raise ConfigError(
            f"Expected one project of this run on {client.url}, got {numbers} with the mark {known['mark']}; "
            "delete the one without answers, or take the mark out of its description."
        )
    page = interface(classes)
    if ours:
        project = Project(client, ours[0]["id"])
        known["interface"] = _mend_interface(project, ours[0]["label_config"], page, known.get("interface"), classes)
        for copy in found:
            if copy["id"] != project.id:
                say(
                    f"project {copy['id']} is a copy of this run's project {project.id}; answers given there are not read"
                )
    else:
        project = Project(client, _create(client, title, known["mark"], page, per_image))
        known["interface"] = page
        say(f"project {title!r} made: {project.url}")
        if same := [str(p["id"]) for p in projects if p["title"] == title]:
            say(f"{title!r} is the title of project {', '.join(same)} too; this run's is {project.id}")
    write_atomically(path, json.dumps({**known, "project": project.id, "url": client.url}))
    return project


def _create(client: "Client", title: str, mark: str, page: str, per_image: int) -> int:
    options = {
        "title": title,
        "description": f"Made by alframe, which finds it by this mark: {mark}",
        "label_config": page,
        "maximum_annotations": per_image,
        "sampling": "Sequential sampling",
        "skip_queue": "IGNORE_SKIPPED",  # a skip is an answer: the image is not put before others instead
        "show_collab_predictions": True,
        "model_version": MODEL,
        "enable_empty_annotation": False,
    }
    return int(client.post("/api/projects/", options)["id"])


def _mend_interface(
    project: Project, there: str, wanted: str, written: str | None, classes: Sequence[str]
) -> str | None:
    """Let the page offer classes that the config names by now. A page that was changed by hand is left alone while it offers all."""
    lacking = {*classes, *words(classes)} - offered(there)
    if not lacking:
        return written
    if written is not None and offered(there) != offered(written):
        raise ConfigError(
            f"Expected the labelling interface of {project.url}/settings/labeling to have a Choices tag named answer with all classes, got "
            f"none for {', '.join(sorted(lacking))}; put back what was changed by hand, or add there what lacks."
        )
    try:
        project.client.patch(f"/api/projects/{project.id}/", {"label_config": wanted})
    except DataError as error:
        raise ConfigError(f"{error}; add {', '.join(sorted(lacking))} to the labelling interface by hand.") from error
    return wanted


def _file(folder: Path) -> Path:
    return Layout(folder).place(PLACE) / "project.json"


def stored_project(folder: Path) -> str | None:
    """Where the run's project was when it was last seen."""
    known = read_json(_file(folder), ("mark",)) or {}
    return f"{known['url']}/projects/{known['project']}" if "project" in known else None
