"""A real Label Studio server for tests, installed into an environment of its own, and people with accounts who answer through its API."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import httpx
from filelock import FileLock

VERSION = "1.23.2"
FROM_ELSEWHERE = "ALFRAME_TEST_LABEL_STUDIO"
"""Names an installed `label-studio` program; else one is installed into the cache."""
ENVIRONMENT = {
    "COLLECT_ANALYTICS": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
    "DEBUG": "false",
    "PYTHONDONTWRITEBYTECODE": "",  # else every start of the server compiles thousands of files again
    "LABEL_STUDIO_USERNAME": "chief@example.org",
    "LABEL_STUDIO_PASSWORD": "a long password",
}


def installed() -> tuple[Path, Path]:
    """The `label-studio` program, and a data folder with its empty database, whose making takes longer than all the rest.

    Raises `RuntimeError` with the reason where it cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "alframe-tests"
    place = cache / f"label-studio-{VERSION}"
    program = Path(os.environ.get(FROM_ELSEWHERE, place / "bin" / "label-studio"))
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            if FROM_ELSEWHERE not in os.environ:
                _run(sys.executable, "-m", "venv", "--without-pip", place)
                python, wanted = place / "bin" / "python", f"label-studio=={VERSION}"
                _run(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python, wanted)
            (place / "data").mkdir(parents=True)
            _run(program, "version", LABEL_STUDIO_BASE_DATA_DIR=place / "data")
            (place / "complete").touch()
    return program, place / "data"


def _run(*command: object, **environment: object) -> None:
    words = [str(word) for word in command]
    added = {key: str(value) for key, value in environment.items()}
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT, **added})
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """One server over one data folder; killed and started again it serves the same."""

    def __init__(self, folder: Path) -> None:
        self.program, empty = installed()
        self.folder = folder / "data"
        shutil.copytree(empty, self.folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        environment = {**os.environ, **ENVIRONMENT, "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder)}
        command = [str(self.program), "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        if wait:
            self.wait()

    def wait(self, limit_s: float = 600.0) -> None:
        until = time.monotonic() + limit_s
        while time.monotonic() < until and self.process is not None and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        log = (self.folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"Label Studio did not start: {log[-1000:]}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def person(self, email: str) -> "Person":
        """An account, made by its sign-up page."""
        return Person(self.url, email, signs_up=True)


class Person:
    """Someone with an account, who works by the calls that the labelling page makes. `made` are all of them, to be hung up on."""

    made: ClassVar[list["Person"]] = []

    def __init__(self, url: str, email: str, password: str = "a long password", *, signs_up: bool = False) -> None:
        page = "signup" if signs_up else "login"
        with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
            browser.get(f"/user/{page}/")
            form = {"email": email, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
            browser.post(f"/user/{page}/", data=form, headers={"Referer": url})
            headers = {"X-CSRFToken": browser.cookies["csrftoken"], "Referer": url}
            made = browser.post("/api/token/", json={}, headers=headers)
            made.raise_for_status()
        self.email, self.token = email, str(made.json()["token"])
        self.http = httpx.Client(base_url=url, timeout=60)
        self.made.append(self)
        self.id = self.call("GET", "/api/current-user/whoami")["id"]

    def call(self, method: str, path: str, **options):
        """The server's answer to a call, as JSON."""
        for _ in range(2):
            response = self.http.request(method, path, **options)
            if response.status_code != 401:
                break
            self.http.headers.pop("Authorization", None)
            access = self.http.post("/api/token/refresh/", json={"refresh": self.token}).json()["access"]
            self.http.headers["Authorization"] = f"Bearer {access}"
        response.raise_for_status()
        return response.json() if response.content else None

    def tasks(self, project: int) -> list[dict]:
        pages = self.call("GET", "/api/tasks/", params={"project": project, "fields": "all", "page_size": 1000})
        return sorted(pages["tasks"], key=lambda task: task["id"])

    def next(self, project: int) -> dict | None:
        """The task that the labelling page would show, or None."""
        try:
            return self.call("GET", f"/api/projects/{project}/next")
        except httpx.HTTPStatusError:
            return None

    def answer(self, task: int, choice: str | None, *, name: str = "", seconds: float = 1.5) -> int:
        """Submit an annotation: a choice (with `name`, of a new class), or a skip for None. Its number."""
        body = {"result": result(choice, name), "was_cancelled": choice is None, "lead_time": seconds}
        return self.call("POST", f"/api/tasks/{task}/annotations/", json=body)["id"]

    def draft(self, task: int, choice: str) -> None:
        """Choose, as the page stores it by itself, and do not submit."""
        self.call("POST", f"/api/tasks/{task}/drafts", json={"result": result(choice), "lead_time": 1.5})

    def change(self, annotation: int, choice: str) -> None:
        self.call("PATCH", f"/api/annotations/{annotation}/", json={"result": result(choice)})


def result(choice: str | None, name: str = "") -> list[dict]:
    def part(tag: str, kind: str, value: dict) -> dict:
        return {"from_name": tag, "to_name": "image", "type": kind, "value": value}

    said = [part("answer", "choices", {"choices": [choice]})] if choice else []
    return said + ([part("new_class_name", "textarea", {"text": [name]})] if name else [])


class Gate:
    """A door before a server: shut, it cuts every connection; with a delay, an answer comes late though the server has done its work."""

    def __init__(self, port: int) -> None:
        self.target, self.is_open, self.delay_s = port, True, 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                outside, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(outside,), daemon=True).start()

    def _connect(self, outside: socket.socket) -> None:
        with (
            outside,
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", self.target)) as inside,
        ):
            while self.is_open:
                ready, _, _ = select.select([outside, inside], [], [], 0.05)
                for here in ready:
                    try:
                        sent = here.recv(1 << 16)
                    except OSError:
                        return
                    if not sent or not self.is_open:
                        return
                    if here is inside:
                        time.sleep(self.delay_s)
                    with contextlib.suppress(OSError):
                        (outside if here is inside else inside).sendall(sent)
