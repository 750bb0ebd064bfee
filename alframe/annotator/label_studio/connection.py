"""The connection to the server: opened on first use, with retries if wanted."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from alframe.annotator.label_studio.failures import NotFound, Unreachable
from alframe.annotator.label_studio.project import Project
from alframe.errors import ConfigError, expect

if TYPE_CHECKING:  # it needs httpx
    from alframe.annotator.label_studio.client import Client

Result = TypeVar("Result")

LONGEST_PAUSE_S = 60.0


class Connection:
    """A run's project at `url`, which `find` opens. `patient`: wait for a server that has answered in this launch."""

    def __init__(
        self, url: str, find: "Callable[[Client], Project]", say: Callable[[str], None], *, patient: bool
    ) -> None:
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
            except (
                NotFound
            ) as error:  # a deleted task, which the retry skips, or a deleted project, which the retry reports
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
