"""A run's project on the server, created once and found again by a unique mark; its tasks; and the connection to it."""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alframe.annotator.label_studio.interface import interface, offered, words
from alframe.errors import AlframeError, ConfigError, DataError, expect
from alframe.record.files import read_json, write_atomically
from alframe.record.layout import Layout

if TYPE_CHECKING:  # it needs httpx
    from alframe.annotator.label_studio.client import Client

MODEL = "alframe"
"""The model name of predictions; the same for all rounds, because a project shows the predictions of one model."""
PLACE = "label_studio"
"""The subfolder of a run."""
LONGEST_TITLE = 50
UPLOAD_FILES, UPLOAD_BYTES = 25, 16 << 20  # of one request

LONGEST_PAUSE_S = 60.0

Say = Callable[[str], None]
Result = TypeVar("Result")


class Unreachable(AlframeError):
    """The server does not respond, or not correctly; it may recover."""


class NotFound(AlframeError):
    """The requested resource is not on the server."""


@dataclass(frozen=True)
class Task:
    """One image of a round on the server. `annotations` are sorted by last change; `touched`: someone has started on it;
    `finished`: the server shows it to nobody else.
    """

    id: int
    question: str
    round: int
    touched: bool
    finished: bool
    annotations: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Project:
    """One project on a server. Every call can be repeated: existing items are found and not created again."""

    client: "Client"
    id: int

    @property
    def url(self) -> str:
        return f"{self.client.url}/projects/{self.id}"

    def tasks(self, round: int | None = None) -> list[Task]:
        """All tasks, or those of a round, in order of creation. Tasks that someone else added are skipped."""
        query: dict[str, Any] = {"ordering": ["tasks:id"]}
        if round is not None:
            of_round = {"filter": "filter:tasks:data.round", "operator": "equal", "type": "Number", "value": round}
            query["filters"] = {"conjunction": "and", "items": [of_round]}
        found = self.client.pages("/api/tasks/", "tasks", project=self.id, fields="all", query=json.dumps(query))
        return [_task(item) for item in found if "id" in item["data"] and isinstance(item["data"].get("round"), int)]

    def remove(self, task: Task) -> None:
        """Delete a task, unless someone has started on it since it was read, because its answers would be deleted too."""
        path = f"/api/tasks/{task.id}/"
        with suppress(NotFound):
            if not _touched(self.client.get(path)):
                self.client.delete(path)

    def finish(self, task: Task) -> None:
        """Stop showing a task to more people."""
        if not task.finished:
            self._set(task, overlap=max(1, len(task.annotations)), is_labeled=True)

    def reopen(self, task: Task) -> None:
        """Show a task to one more person."""
        if task.finished:
            self._set(task, overlap=len(task.annotations) + 1, is_labeled=False)

    def _set(self, task: Task, **values: Any) -> None:
        with suppress(NotFound):
            self.client.patch(f"/api/tasks/{task.id}/", values)

    def pictures(self) -> dict[str, str]:
        """The addresses of the uploaded images, by upload name."""
        uploads = self.client.get(f"/api/projects/{self.id}/file-uploads", all="true")
        names = (item["file"] for item in uploads)  # `upload/3/8d7f71c6-NAME` was uploaded as NAME
        return {name.rsplit("/", 1)[-1].split("-", 1)[-1]: f"/data/{name}" for name in names}

    def upload(self, pictures: Sequence[tuple[str, Callable[[], bytes]]], say: Say) -> None:
        """Upload images (name and content) to the server's media folder, so that no shared disk is needed."""
        batch: list[tuple[str, bytes]] = []
        for done, (name, read) in enumerate(pictures, 1):
            batch.append((name, read()))
            if done == len(pictures) or len(batch) == UPLOAD_FILES or sum(len(c) for _, c in batch) > UPLOAD_BYTES:
                self.client.upload(f"/api/projects/{self.id}/import", batch, commit_to_project="false")
                say(f"{done} of {len(pictures)} images uploaded")
                batch = []

    def add(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Create tasks, shown in this order."""
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
    """Whether anyone has started; the API lists only one's own drafts, hence `draft_exists`."""
    return bool(item["annotations"] or item.get("draft_exists"))


def open_project(
    client: "Client", folder: Path, title: str, classes: Sequence[str], per_image: int, say: Say
) -> Project:
    """The project of the run in `folder`, created if there is none; identified by a mark in its description and its number.

    The mark is stored before the project is created and the number after, so that a kill in between loses neither. Raises
    `ConfigError` if the project was deleted, if there are two, or if its labelling interface lacks a class.
    """
    path = _file(folder)
    known = read_json(path, ("mark",))
    if known is None:
        known = {"mark": f"alframe-run-{uuid.uuid4().hex[:16]}"}
        write_atomically(path, json.dumps(known))
    if known.get("url", client.url) != client.url:
        say(f"the run's project was on {known['url']}; looking for it on {client.url}")
    projects = list(client.pages("/api/projects/", "results", include="id,title,description,label_config"))
    found = [p for p in projects if known["mark"] in (p.get("description") or "")]
    ours = [p for p in found if p["id"] == known.get("project")] or found
    if not ours and "project" in known:
        raise ConfigError(
            f"Expected this run's project {known['project']} on {client.url}, got none: it was deleted, or this is another server. The "
            f"answers received so far are in {Layout(folder).ledger}; restore the project, or delete {path} to create a new one."
        )
    if len(ours) > 1:
        numbers = " and ".join(str(p["id"]) for p in ours)
        raise ConfigError(
            f"Expected one project of this run on {client.url}, got {numbers} with the mark {known['mark']}; "
            "delete the one without answers, or remove the mark from its description."
        )
    page = interface(classes)
    if ours:
        project = Project(client, ours[0]["id"])
        known["interface"] = _update_interface(project, ours[0]["label_config"], page, known.get("interface"), classes)
        for copy in found:
            if copy["id"] != project.id:
                say(f"project {copy['id']} is a copy of this run's project {project.id}; answers there are ignored")
    else:
        project = Project(client, _create(client, title, known["mark"], page, per_image))
        known["interface"] = page
        say(f"project {title!r} created: {project.url}")
        if same := [str(p["id"]) for p in projects if p["title"] == title]:
            say(f"{title!r} is also the title of project {', '.join(same)}; this run's project is {project.id}")
    write_atomically(path, json.dumps({**known, "project": project.id, "url": client.url}))
    return project


def _create(client: "Client", title: str, mark: str, page: str, per_image: int) -> int:
    options = {
        "title": title,
        "description": f"Made by alframe, which finds it by this mark: {mark}",
        "label_config": page,
        "maximum_annotations": per_image,
        "sampling": "Sequential sampling",
        "skip_queue": "IGNORE_SKIPPED",  # a skip is an answer: the image is not shown to others instead
        "show_collab_predictions": True,
        "model_version": MODEL,
        "enable_empty_annotation": False,
    }
    return int(client.post("/api/projects/", options)["id"])


def _update_interface(
    project: Project, there: str, wanted: str, written: str | None, classes: Sequence[str]
) -> str | None:
    """Add classes to the page that the config names now. A page edited by hand is left alone as long as it offers all."""
    lacking = {*classes, *words(classes)} - offered(there)
    if not lacking:
        return written
    if written is not None and offered(there) != offered(written):
        raise ConfigError(
            f"Expected the labelling interface of {project.url}/settings/labeling to have a Choices tag named answer with all classes, got "
            f"none for {', '.join(sorted(lacking))}; undo the manual change, or add what is missing there."
        )
    try:
        project.client.patch(f"/api/projects/{project.id}/", {"label_config": wanted})
    except DataError as error:
        raise ConfigError(f"{error}; add {', '.join(sorted(lacking))} to the labelling interface by hand.") from error
    return wanted


def _file(folder: Path) -> Path:
    return Layout(folder).place(PLACE) / "project.json"


def stored_project(folder: Path) -> str | None:
    """The address of the run's project when it was last seen."""
    known = read_json(_file(folder), ("mark",)) or {}
    return f"{known['url']}/projects/{known['project']}" if "project" in known else None


class Connection:
    """A run's project at `url`, which `find` opens on first use. `patient`: wait for a server that has answered in this launch."""

    def __init__(self, url: str, find: "Callable[[Client], Project]", say: Say, *, patient: bool) -> None:
        self.url, self.find, self.say, self.patient = url, find, say, patient
        self._project: Project | None = None
        self._has_answered = False

    @property
    def project(self) -> Project:
        """The run's project, created if there is none."""
        from alframe.annotator.label_studio.client import Client

        if self._project is None:
            client = Client(self.url)
            try:
                self._project = self.find(client)
            except BaseException:
                client.close()
                raise
        return self._project

    def close(self) -> None:
        """Disconnect; the next use connects again."""
        if self._project is not None:
            self._project.client.close()
        self._project = None

    def do(self, step: Callable[[], Result]) -> Result:
        """The result of `step`, which must be repeatable: it is retried after failures, with growing pauses.

        Raises `ConfigError` if there is no server, or if the project was deleted.
        """
        pause, failed = 1.0, False
        while True:
            try:
                result = step()
            except NotFound as error:  # a deleted task: the retry skips it; or a deleted project: the retry reports it
                expect(not failed, f"Expected this run's project on {self.url}, got: {error}; re-run the same command.")
                self.close()
                failed = True
            except Unreachable as error:
                if not (self.patient and self._has_answered):
                    raise ConfigError(
                        f"Expected Label Studio at {self.url}, got no response ({error}); start it, or correct annotator.url. "
                        "Nothing is lost: re-run the same command to resume."
                    ) from error
                if not failed:
                    self.say(f"{self.url} does not respond ({error}); retrying until it does")
                failed = True
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                if failed:
                    self.say(f"{self.url} responds again")
                self._has_answered = True
                return result
