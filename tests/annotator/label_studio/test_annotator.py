"""A real server, people with accounts on it, and what happens when either of them, or the loop, fails in the middle."""

import json
import re
import signal
import threading
from contextlib import closing, contextmanager, suppress
from functools import partial

import httpx
import numpy as np
import pytest
from conftest import tiny_data, tiny_experiment
from label_studio_server import Gate, Person, Server, free_port
from tests_support import die, die_after_half_a_line, in_a_process, on_call

from alframe.annotator.base import Job
from alframe.annotator.cli import main as queue_command
from alframe.annotator.label_studio import LabelStudio, client
from alframe.annotator.label_studio import project as on_server
from alframe.annotator.oracle import Oracle
from alframe.budget import Budget
from alframe.errors import ConfigError, PoolError, Waiting
from alframe.labels.consensus import Rules
from alframe.labels.ledger import Ledger
from alframe.labels.pool import Pool
from alframe.labels.tally import accuracy
from alframe.loop import run
from alframe.record.record import Record
from alframe.scores import entropy
from alframe.session import ask
from alframe.strategy.top_score import TopScore
from alframe.types import Question

pytestmark = [pytest.mark.server, pytest.mark.slow]

BUDGET = Budget(initial=10, query_size=4, rounds=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    try:
        server = Server(tmp_path_factory.mktemp("label_studio"))
    except RuntimeError as error:
        pytest.skip(f"Label Studio cannot be installed: {error}")
    server.start()
    yield server
    server.kill()
    for person in Person.made:
        person.http.close()


@pytest.fixture(scope="module")
def chief(server):
    return Person(server.url, "chief@example.org")


@pytest.fixture(scope="module")
def team(server, chief):
    return [server.person(f"{name}@example.org") for name in ("anna", "bob", "cora")]


@pytest.fixture(autouse=True)
def token(chief, monkeypatch):
    monkeypatch.setenv(client.TOKEN, chief.token)


class Desk:
    """An annotator asked by the loop's own `ask`, over a ledger in `folder`; made anew it is another launch."""

    def __init__(self, folder, url, **options):
        self.folder, self.data = folder / "study" / "cell" / "seed=0", tiny_data()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        options = {"url": url, "wait": False, "poll_s": 0.05, **options}
        classes = self.data.pool.classes
        self.annotator = LabelStudio(**options).desk(Job(classes, 0, self.folder, self.ledger.lines, self.data))
        rules = self.annotator.rules
        self.pool = Pool(self.data.pool.ids, self.ledger, len(rules.classes), rules=rules)

    def ask(self, indices, round=0, *, done=False):
        """Ask; `done` says whether that should be the end of it."""
        ids = self.data.pool.ids
        questions = [Question(ids[i], i, "query", round, rank) for rank, i in enumerate(indices)]
        if done:
            ask(self.annotator.annotate, self.pool, questions)
        else:
            with pytest.raises(Waiting):
                ask(self.annotator.annotate, self.pool, questions)

    @property
    def project(self):
        return known_project(self.folder)

    def said(self):
        return [(line["index"], line["label"], line.get("answer", "")) for line in self.ledger.lines]

    def index(self, task):
        return self.data.pool.ids.index(task["data"]["id"])


@contextmanager
def answering(person, folder, choose):
    """Meanwhile `person` labels the run's tasks as they come, with what `choose(task)` says."""
    enough = threading.Event()

    def work():
        pause_s = 0.0
        while not enough.wait(pause_s):
            pause_s = 0.1
            with suppress(httpx.TransportError):  # the server was killed; the next turn tries again
                project = known_project(folder)
                if project and (task := person.next(project)):
                    person.answer(task["id"], choose(task))
                    pause_s = 0.0

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
    finally:
        enough.set()
        worker.join(30)


def known_project(folder):
    """The number of the run's project, or None before it has one."""
    path = folder / "label_studio" / "project.json"
    return json.loads(path.read_text()).get("project") if path.exists() else None


@pytest.fixture
def open_desk(tmp_path):
    """`open_desk(url, **options)`; every one is another launch of the same run."""
    desks = []

    def opened(url, **options):
        desks.append(Desk(tmp_path, url, **options))
        return desks[-1]

    yield opened
    for desk in desks:
        desk.ledger.close()


@pytest.fixture
def desk(server, open_desk):
    return partial(open_desk, server.url)


# -- what people see and say -------------------------------------------------------------------------------------------


def test_a_task_shows_the_image_and_what_the_model_thinks_in_query_order(desk, chief):
    desk = desk()
    ids = desk.data.pool.ids
    thought = {"score": 0.6, "score_name": "entropy", "probs": [0.3, 0.7], "reason": "class 1 0.70; entropy 0.6"}
    questions = [Question(ids[i], i, "query", 0, rank, **thought) for rank, i in enumerate([7, 3, 5])]
    with pytest.raises(Waiting, match="3 of 3 answers of round 0, at .*/projects/"):
        ask(desk.annotator.annotate, desk.pool, questions)
    tasks = chief.tasks(desk.project)
    assert [desk.index(task) for task in tasks] == [7, 3, 5]
    assert [chief.next(desk.project)["id"]] == [tasks[0]["id"]]
    assert tasks[0]["data"]["reason"] == thought["reason"]
    guess = tasks[0]["predictions"][0]
    assert guess["result"][0]["value"] == {"choices": ["class 1"]}
    assert guess["score"] == 0.7
    shown = chief.http.get(tasks[0]["data"]["image"])
    assert shown.headers["content-type"] == "image/png"
    assert shown.content[:4] == b"\x89PNG"


def test_a_prediction_can_be_hidden(desk, chief):
    desk = desk(show_prediction=False)
    question = Question(
        desk.data.pool.ids[0], 0, "query", 0, 0, 0.6, "entropy", [0.3, 0.7], "class 1 0.70; entropy 0.6"
    )
    with pytest.raises(Waiting):
        ask(desk.annotator.annotate, desk.pool, [question])
    task = chief.tasks(desk.project)[0]
    assert set(task["data"]) == {"image", "id", "round", "reason"}
    assert task["data"]["reason"] == ""
    assert task["predictions"] == []


def test_the_files_of_the_dataset_are_shown_themselves(desk, chief, tmp_path):
    from dataclasses import replace

    from PIL import Image

    from alframe.images import Data

    desk, names = desk(), ("a photo.JPG", "scan.tiff")
    for name in names:
        Image.fromarray(desk.data.pool.pixels[0, 0]).resize((300, 200)).save(tmp_path / name)
    pool = replace(desk.data.pool.take(np.arange(2)), names=names)
    desk.annotator.data = Data("photos", pool, desk.data.test, root=tmp_path)
    desk.ask([0, 1])
    photo, scan = (chief.http.get(task["data"]["image"]) for task in chief.tasks(desk.project))
    assert photo.content == (tmp_path / names[0]).read_bytes()
    assert scan.headers["content-type"] == "image/png"  # browsers show no TIFF


def test_every_kind_of_answer_is_taken_once_and_the_moment_it_is_there(desk, team, capsys):
    anna, bob, _ = team
    desk = desk()
    desk.ask(range(6))
    tasks = anna.tasks(desk.project)
    anna.answer(tasks[0]["id"], "class 1", seconds=3.2)
    bob.answer(tasks[1]["id"], None)
    desk.ask(range(6))
    desk.ask(range(6))
    assert desk.said() == [(0, 1, ""), (1, None, "skip")]
    assert [line["annotator"] for line in desk.ledger.lines] == [anna.email, bob.email]
    assert desk.ledger.lines[0]["time_s"] == 3.2
    for task, choice in zip(tasks[2:], ["unsure", "bad image", "class 0"], strict=False):
        anna.answer(task["id"], choice)
    empty = anna.call("POST", f"/api/tasks/{tasks[5]['id']}/annotations/", json={"result": []})["id"]
    desk.ask(range(6))
    assert (
        f"{anna.email} at {desk.annotator.url}/projects/{desk.project}/data?task={tasks[5]['id']}"
        in capsys.readouterr().err
    )
    anna.change(empty, "class 1")
    desk.ask(range(6), done=True)
    assert desk.said()[2:] == [(2, None, "unsure"), (3, None, "bad_image"), (4, 0, ""), (5, 1, "")]


def test_a_changed_answer_counts_until_its_round_is_complete_and_is_told_after(desk, team, capsys):
    anna = team[0]
    first = desk()
    first.ask(range(3))
    tasks = anna.tasks(first.project)
    answers = [anna.answer(task["id"], "class 0") for task in tasks[:2]]
    first.ask(range(3))
    anna.change(answers[0], "class 1")
    anna.answer(tasks[2]["id"], "class 0")
    first.ask(range(3), done=True)
    assert first.said() == [(0, 0, ""), (1, 0, ""), (0, 1, ""), (2, 0, "")]
    assert [line["label"] for line in first.pool.settled()] == [1, 0, 0]
    anna.change(answers[1], "class 1")
    capsys.readouterr()
    first.ask([8], round=1)
    told = capsys.readouterr().err
    assert f"1 answers came or changed after their round was complete and are ignored: {anna.email}" in told
    assert len(first.said()) == 4


def test_a_new_class_is_told_and_offered_once_the_config_names_it(desk, team):
    anna = team[0]
    before = desk()
    before.ask(range(2))
    tasks = anna.tasks(before.project)
    anna.answer(tasks[0]["id"], "new class", name="Oil stain")
    anna.answer(tasks[1]["id"], "class 0")
    with pytest.raises(PoolError, match=r'annotator.new_classes=\["Oil stain"\]'):
        before.ask(range(2), done=True)
    after = desk(new_classes=["Oil stain"])
    after.ask([5], round=1)
    assert [line["label"] for line in after.pool.settled()] == [2, 0]
    task = anna.tasks(after.project)[-1]
    anna.answer(task["id"], "Oil stain")
    after.ask([5], round=1, done=True)
    assert after.said()[-1] == (5, 2, "")


def test_a_choice_added_by_hand_is_a_new_class_and_one_taken_away_is_missed(desk, chief, team):
    first = desk()
    first.ask([0])
    path = f"/api/projects/{first.project}/"
    page = chief.call("GET", path)["label_config"]
    chief.call(
        "PATCH",
        path,
        json={
            "label_config": page.replace('<Choice value="class 0"', '<Choice value="dent" /><Choice value="class 0"')
        },
    )
    team[0].answer(team[0].tasks(first.project)[0]["id"], "dent")
    with pytest.raises(PoolError, match="new 'dent'"):
        desk().ask([0], done=True)
    chief.call("PATCH", path, json={"label_config": page.replace('value="class 1"', 'value="class one"')})
    with pytest.raises(ConfigError, match="none for class 1; undo"):
        desk().ask([0, 1], done=True)


def test_a_quorum_closes_a_round_and_what_nobody_began_is_taken_away(desk, team):
    anna = team[0]
    desk = desk(quorum=0.5)
    desk.ask(range(4))
    tasks = anna.tasks(desk.project)
    anna.answer(tasks[1]["id"], "class 0")
    desk.ask(range(4))
    anna.answer(tasks[2]["id"], "class 0")
    desk.ask(range(4), done=True)
    assert desk.said()[2:] == [(0, None, "unanswered"), (3, None, "unanswered")]
    desk.ask([0, 9], round=1)
    assert [(desk.index(task), task["data"]["round"]) for task in anna.tasks(desk.project)] == [
        (1, 0),
        (2, 0),
        (0, 1),
        (9, 1),
    ]


def test_what_is_half_done_when_its_round_is_over_is_kept_and_shown_to_nobody_else(desk, team, monkeypatch):
    """Else Label Studio would show it first, and the answers would come too late."""
    anna, bob, _ = team
    desk = desk(per_image=2, quorum=0.25)
    desk.ask(range(4))
    tasks = anna.tasks(desk.project)
    for person in (anna, bob):
        person.answer(tasks[0]["id"], "class 0")
    anna.answer(tasks[1]["id"], "class 0")
    bob.draft(tasks[2]["id"], "class 0")
    desk.ask(range(4), done=True)
    look = on_server.Project.tasks

    def last_moment(project, round=None):
        found = look(project, round)
        monkeypatch.setattr(on_server.Project, "tasks", look)
        bob.answer(tasks[3]["id"], "class 1")
        return found

    monkeypatch.setattr(on_server.Project, "tasks", last_moment)
    desk.ask([8], round=1)
    now = bob.tasks(desk.project)
    assert [(desk.index(task), len(task["annotations"])) for task in now] == [(0, 2), (1, 1), (2, 0), (3, 1), (8, 0)]
    assert bob.next(desk.project)["id"] == now[-1]["id"]


def test_who_has_left_is_not_counted_twice(desk, server, chief, team):
    left, deleted = (server.person(f"{name}@example.org") for name in ("dora", "emil"))
    first = desk(per_image=4)
    first.ask([0])
    task = chief.tasks(first.project)[0]["id"]
    for person in (left, deleted, team[0]):
        person.answer(task, "class 0")
    first.ask([0])
    chief.call("DELETE", f"/api/organizations/1/memberships/{left.id}/")
    chief.call("DELETE", f"/api/users/{deleted.id}/")
    team[0].answer(task, "class 1")
    desk(per_image=4).ask([0])
    again = desk(per_image=4)
    assert [line["annotator"] for line in again.ledger.lines] == [
        *(person.email for person in (left, deleted, team[0])),
        team[0].email,
    ]


def test_an_image_that_somebody_submits_twice_or_empty_is_still_shown_to_others(desk, team):
    anna, bob, cora = team
    desk = desk(per_image=2)
    desk.ask([0])
    task = anna.tasks(desk.project)[0]["id"]
    for _ in range(2):
        anna.answer(task, "class 0")
    assert bob.next(desk.project) is None
    desk.ask([0])
    assert bob.next(desk.project)["id"] == task
    bob.call("POST", f"/api/tasks/{task}/annotations/", json={"result": []})
    desk.ask([0])
    assert cora.next(desk.project)["id"] == task
    cora.answer(task, "class 1")
    desk.ask([0], done=True)
    assert [line["annotator"] for line in desk.ledger.lines] == [anna.email, cora.email]


# -- what goes wrong on the server -------------------------------------------------------------------------------------


def test_a_task_deleted_by_hand_is_there_again(desk, chief, team, capsys):
    desk = desk()
    desk.ask(range(3))
    tasks = chief.tasks(desk.project)
    team[0].answer(tasks[0]["id"], "class 0")
    desk.ask(range(3))
    for task in tasks[:2]:
        chief.call("DELETE", f"/api/tasks/{task['id']}/")
    desk.ask(range(3))
    assert "1 images were missing on the server and were restored" in capsys.readouterr().err
    assert [desk.index(task) for task in chief.tasks(desk.project)] == [2, 1]
    assert desk.said() == [(0, 0, "")]


def test_a_deleted_project_is_told_and_made_again_on_request(desk, chief, team):
    first = desk()
    first.ask(range(3))
    gone = first.project
    team[0].answer(chief.tasks(gone)[0]["id"], "class 1")
    first.ask(range(3))
    chief.call("DELETE", f"/api/projects/{gone}/")
    for place in (first, desk()):
        with pytest.raises(ConfigError, match=rf"project {gone} on http.*delete .*project.json to create a new one"):
            place.ask(range(3), done=True)
    (first.folder / "label_studio" / "project.json").unlink()
    again = desk()
    again.ask(range(3))
    assert [again.index(task) for task in chief.tasks(again.project)] == [1, 2]
    assert again.said() == [(0, 1, "")]


def test_a_project_is_known_by_its_mark_and_not_by_its_title(desk, chief, capsys):
    title = "study/cell/seed=0"
    other = chief.call("POST", "/api/projects/", json={"title": title})["id"]
    first = desk()
    first.ask([0])
    assert first.project != other
    assert re.search(
        rf"'{title}' is also the title of project .*\b{other}\b.*; this run's project is {first.project}\n",
        capsys.readouterr().err,
    )
    description = chief.call("GET", f"/api/projects/{first.project}/")["description"]
    copy = chief.call("POST", "/api/projects/", json={"title": "copy", "description": description})["id"]
    desk().ask([0])
    assert f"project {copy} is a copy of this run's project {first.project}" in capsys.readouterr().err
    path, number = first.folder / "label_studio" / "project.json", first.project
    path.write_text(json.dumps({"mark": json.loads(path.read_text())["mark"]}))
    with pytest.raises(
        ConfigError, match=f"one project of this run on .*, got ({number} and {copy}|{copy} and {number})"
    ):
        desk().ask([0], done=True)


def test_doubles_are_taken_away_or_count_once(desk, chief, team):
    desk = desk()
    desk.ask(range(2))
    data = [{"data": task["data"]} for task in chief.tasks(desk.project)]
    chief.call("POST", f"/api/projects/{desk.project}/import", json=data)
    tasks = chief.tasks(desk.project)
    team[0].answer(tasks[0]["id"], "class 0")
    team[1].answer(tasks[2]["id"], "class 0")
    desk.ask(range(2))
    assert [desk.index(task) for task in chief.tasks(desk.project)] == [0, 1, 0]
    team[0].answer(tasks[1]["id"], "class 1")
    desk.ask(range(2), done=True)
    assert sorted(desk.said()) == [(0, 0, ""), (0, 0, ""), (1, 1, "")]
    assert desk.pool.bought == desk.pool.usable == 2


@pytest.mark.parametrize("wrong", ["", "nonsense", "a" * 40, "eyJh.eyJh.eyJh", "ключ"])
def test_a_wrong_token_is_told_and_not_shown(desk, monkeypatch, wrong):
    monkeypatch.setenv(client.TOKEN, wrong)
    with pytest.raises(ConfigError, match=client.TOKEN) as told:
        desk().ask([0], done=True)
    assert len(str(told.value).splitlines()) == 1
    assert not wrong or wrong not in str(told.value)


def test_a_token_withdrawn_in_the_middle_ends_the_launch_and_a_new_one_goes_on(desk, server, monkeypatch):
    boss = server.person("boss@example.org")
    monkeypatch.setenv(client.TOKEN, boss.token)
    first = desk()
    first.ask([0])
    boss.call("POST", "/api/token/blacklist/", json={"refresh": boss.token})
    with pytest.raises(ConfigError, match="wrong, expired or revoked"):
        desk().ask([0], done=True)
    monkeypatch.undo()


def test_the_token_is_written_nowhere(desk, chief, capfd):
    desk = desk()
    desk.ask([0])
    written = [path.read_bytes() for path in desk.folder.rglob("*") if path.is_file()]
    secret = chief.token.rsplit(".", 1)[-1]
    assert len(written) > 1
    assert not any(secret.encode() in content for content in written)
    assert secret not in "".join(capfd.readouterr())


def test_a_server_that_is_not_there_is_told_in_one_line(open_desk):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=rf"Expected Label Studio at {url}, got no response") as told:
        open_desk(url, wait=True).ask([0], done=True)
    assert len(str(told.value).splitlines()) == 1


def test_another_server_at_the_address_is_told(server, open_desk):
    with pytest.raises(ConfigError, match="got another kind of page"):
        open_desk(f"{server.url}/static").ask([0], done=True)


def test_an_answer_that_comes_late_makes_no_doubles(server, chief, open_desk, monkeypatch, capsys):
    """The server makes the tasks, but we give up on it before it says so."""
    gate = Gate(server.port)
    desk = open_desk(gate.url, wait=True)
    add = on_server.Project.add

    def slow(project, tasks):
        monkeypatch.setattr(on_server.Project, "add", add)
        gate.delay_s = 3.0
        with_limit = project.client._http
        with_limit.timeout = httpx.Timeout(1.0)
        try:
            add(project, tasks)
        finally:
            gate.delay_s, with_limit.timeout = 0.0, client.TIMEOUT

    monkeypatch.setattr(on_server.Project, "add", slow)
    with answering(chief, desk.folder, lambda task: "class 0"):
        desk.ask(range(3), done=True)
    assert sorted(desk.said()) == [(0, 0, ""), (1, 0, ""), (2, 0, "")]
    assert len(chief.tasks(desk.project)) == 3
    told = capsys.readouterr().err
    assert "does not respond (no answer within" in told
    assert "responds again" in told
    gate.close()


def test_tasks_that_others_made_are_passed_over(desk, chief, team):
    desk = desk()
    desk.ask([0])
    others = [
        {"image": "/a.png"},
        {"image": "/b.png", "id": "b", "round": "first"},
        {"image": "/c.png", "id": "c", "round": 0},
    ]
    chief.call("POST", f"/api/projects/{desk.project}/import", json=[{"data": data} for data in others])
    for task in chief.tasks(desk.project):
        team[0].answer(task["id"], "class 1")
    desk.ask([0], done=True)
    desk.ask([1], round=1)
    assert desk.said() == [(0, 1, "")]
    assert len(chief.tasks(desk.project)) == 5


# -- whole runs --------------------------------------------------------------------------------------------------------


def experiment(budget=BUDGET, **options):
    annotator = LabelStudio(**{"poll_s": 0.3, **options}) if options else Oracle()
    return tiny_experiment(strategy=TopScore(score=entropy), annotator=annotator, budget=budget)


def go(experiment, folder):
    """One launch; True when the run is finished, False when it waits for people."""
    with closing(Record(folder, experiment.describe(), experiment.declared, tensorboard=False)) as record:
        try:
            run(experiment, record)
        except Waiting:
            return False
    return True


def read(folder):
    """Ledger and rounds as values, without seconds and people."""

    def bare(line):
        return {
            k: v
            for k, v in line.items()
            if not k.endswith("_s") and k not in ("annotator", "annotation") and not k.startswith("people/")
        }

    return [[bare(line) for line in lines(folder, name)] for name in ("ledger.jsonl", "rounds.jsonl")]


def lines(folder, name="ledger.jsonl"):
    return [json.loads(text) for text in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def truth():
    pool = tiny_data().pool
    return {id: pool.classes[label] for id, label in zip(pool.ids, pool.labels, strict=True)}


@pytest.fixture(scope="module")
def by_oracle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    assert go(experiment(), folder)
    return read(folder)


def label_all(person, folder, truth):
    project = known_project(folder)
    for task in person.tasks(project) if project else ():
        if not task["annotations"]:
            person.answer(task["id"], truth[task["data"]["id"]])


def test_three_people_label_two_rounds_and_the_one_who_errs_is_outvoted(server, team, truth, tmp_path, capsys):
    budget = Budget(initial=10, query_size=5, rounds=2)
    assert go(experiment(budget), tmp_path / "oracle")
    folder, other = tmp_path / "study" / "cell" / "seed=0", {"class 0": "class 1", "class 1": "class 0"}
    anna, bob, cora = team

    def right(task):
        return truth[task["data"]["id"]]

    def hasty(task):
        return other[right(task)] if int(task["data"]["id"][:8], 16) % 10 < 3 else right(task)

    work = experiment(budget, url=server.url, per_image=3, aggregate="dawid_skene")
    with answering(anna, folder, right), answering(bob, folder, right), answering(cora, folder, hasty):
        assert go(work, folder)
    ledger, rounds = lines(folder), lines(folder, "rounds.jsonl")
    assert len(ledger) == len({(line["round"], line["index"], line["annotator"]) for line in ledger}) == 3 * 20
    by_cora = [
        line["label"] == work.data.pool.labels[line["index"]] for line in ledger if line["annotator"] == cora.email
    ]
    assert len(by_cora) == 20
    assert 0.5 <= np.mean(by_cora) <= 0.9
    for aggregate in ("majority", "dawid_skene"):
        rules = Rules(True, 3, 1, aggregate, work.data.pool.classes)
        record = Ledger(folder / "ledger.jsonl")
        settled = Pool(work.data.pool.ids, record, 2, rules=rules).settled()
        record.close()
        assert [line["label"] for line in settled] == [work.data.pool.labels[line["index"]] for line in settled]
    wanted = lines(tmp_path / "oracle", "rounds.jsonl")
    assert [line["test/nll"] for line in rounds] == [line["test/nll"] for line in wanted]
    assert 0 < rounds[-1]["agreement/pairs"] < 1
    assert queue_command(["status", str(folder)]) == 0
    assert f"{cora.email}: 20 answers, 1.5 s each" in capsys.readouterr().out


def test_known_images_are_hidden_and_tell_who_is_right(server, team, truth, tmp_path, capsys):
    anna, bob, _ = team
    folder = tmp_path / "study" / "cell" / "seed=0"
    work = experiment(Budget(initial=10, query_size=4, rounds=2), url=server.url, wait=False, check_rate=1.0)
    while not go(work, folder):
        known = {line["id"] for line in lines(folder)}
        for number, task in enumerate(anna.tasks(known_project(folder))):
            if not task["annotations"]:
                who = anna if task["data"]["id"] in known or number % 2 else bob
                who.answer(task["id"], truth[task["data"]["id"]] if who is anna else "class 0")
        if not known:
            assert queue_command(["status", str(folder)]) == 0
            assert f"open: 10 images, {server.url}/projects/{known_project(folder)}" in capsys.readouterr().out
            assert queue_command(["export", str(folder), str(tmp_path / "open.csv")]) == 1
            assert "Expected a run with annotator=queue" in capsys.readouterr().err
    ledger = lines(folder)
    checks = [line for line in ledger if line["kind"] in ("gold", "repeat")]
    assert {line["kind"] for line in checks} == {"gold", "repeat"}
    for line in checks:
        before = [e["label"] for e in ledger if e["index"] == line["index"] and e["round"] < line["round"]]
        own = [
            e
            for e in ledger
            if e["index"] == line["index"] and e["round"] < line["round"] and e["annotator"] == anna.email
        ]
        assert line["expected"] == before[0]
        assert (line["kind"] == "repeat") == bool(own)
    right, of = accuracy(ledger)[anna.email]["repeat"]
    assert right == of
    assert [line["labels"] for line in lines(folder, "rounds.jsonl")] == [10, 14, 18]


KILLS = {  # in which launch, and where
    "before the project is made": (0, (on_server, "_create", on_call(1, die))),
    "before its number is stored": (0, (on_server, "write_atomically", on_call(2, die))),
    "between the pictures and the tasks": (0, (on_server.Project, "add", on_call(1, die))),
    "between two answers": (1, (Ledger, "append", on_call(4, die))),
    "in the middle of a ledger line": (1, (Ledger, "append", on_call(5, die_after_half_a_line))),
    "before the commit": (2, (Record, "commit", on_call(1, die))),
}


@pytest.mark.parametrize("moment", KILLS)
def test_killed_no_answer_is_lost_and_none_counts_twice(moment, server, chief, truth, tmp_path, by_oracle):
    number, patch = KILLS[moment]
    work, launches, code = experiment(url=server.url, wait=False), 0, 75
    while code != 0:
        code = in_a_process(partial(go, work, tmp_path), patch if launches == number else None)
        assert (code == -signal.SIGKILL) == (launches == number), "the kill did not come, or came again"
        if code == 75:
            label_all(chief, tmp_path, truth)
        launches += 1
        assert launches < 8
    assert read(tmp_path) == by_oracle
    mark = json.loads((tmp_path / "label_studio" / "project.json").read_text())["mark"]
    projects = chief.call("GET", "/api/projects/", params={"page_size": 1000})["results"]
    assert sum(mark in (p["description"] or "") for p in projects) == 1
    assert len(chief.tasks(known_project(tmp_path))) == 14


def test_the_server_is_killed_twice_and_the_run_goes_on(server, chief, truth, tmp_path, by_oracle, monkeypatch, capsys):
    """Once between the pictures and the tasks, once while someone labels: the loop waits until it is back."""
    add, given = on_server.Project.add, []

    def fall(project, tasks):
        monkeypatch.setattr(on_server.Project, "add", add)
        server.kill()
        server.start(wait=False)
        add(project, tasks)

    def choose(task):
        given.append(task["id"])
        if len(given) == 4:
            server.kill()
            server.start()
        return truth[task["data"]["id"]]

    monkeypatch.setattr(on_server.Project, "add", fall)
    with answering(chief, tmp_path, choose):
        assert go(experiment(url=server.url), tmp_path)
    assert read(tmp_path) == by_oracle
    told = capsys.readouterr().err
    assert told.count("does not respond") == told.count("responds again") >= 1
