"""The line to the server: opened when it is needed, patient where that is wanted."""

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
    """A run's project at `url`, which `find` opens. `patient`: a server that was there once in this launch is waited for."""

    def __init__(
        self, url: str, find: "Callable[[Client], Project]", say: Callable[[str], None], *, patient: bool
    ) -> None:
        self.url, self.find, self.say, self.patient = url, find, say, patient
        self._project: Project | None = None
        self._met = False

    @property
    def project(self) -> Project:
        """The run's project, made if there is none."""
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
        """Hang up; the next use calls again."""
        if self._project is not None:
            self._project.client.close()
        self._project = None

    def do(self, step: Callable[[], Result]) -> Result:
        """The result of `step`, which can be repeated; after a failure it is, with longer and longer pauses, where that may help.

        Raises `ConfigError` where there is no server, or the project is gone.
        """
        pause, failed = 1.0, False
        while True:
            try:
                result = step()
            except (
                NotFound
            ) as error:  # a task, which the next turn does not find, or the project, which the next turn tells
                expect(
                    not failed, f"Expected this run's project on {self.url}, got: {error}; run the same command again."
                )
                self.close()
                failed = True
            except Unreachable as error:
                if not (self.patient and self._met):
                    raise ConfigError(
                        f"Expected Label Studio at {self.url}, got no answer ({error}); start it, or correct annotator.url. "
                        "Nothing is lost: the same command goes on from here."
                    ) from error
                if not failed:
                    self.say(f"{self.url} does not answer ({error}); it is asked again until it does")
                failed = True
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                if failed:
                    self.say(f"{self.url} answers again")
                self._met = True
                return result
