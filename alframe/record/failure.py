"""Why a run failed, kept in its folder until it resumes: a study whose failed cells are forgotten is a biased choice."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alframe.errors import AlframeError, RunFolderError, Waiting
from alframe.record.files import read_json, write_atomically
from alframe.record.layout import Layout


@contextmanager
def noting_failure(folder: Path) -> Iterator[None]:
    """What is done with a run that nobody else is using: an error in it is kept in its folder, until the next time.

    A refusal (`RunFolderError`) is none: then the folder stays as it is.
    """
    file = Layout(folder).failed
    try:
        yield
    except RunFolderError:
        raise
    except Waiting:
        file.unlink(missing_ok=True)
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, AlframeError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # the disk may be what failed
            write_atomically(file, json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "reason": reason}))
        raise
    else:
        file.unlink(missing_ok=True)


def failure_of(folder: Path) -> str | None:
    """The first line of why the run in `folder` failed last, or None if it did not."""
    try:
        found = read_json(Layout(folder).failed, ("reason",))
    except RunFolderError:
        return "for a reason that cannot be read"
    return None if found is None else (str(found["reason"]).splitlines() or ["no reason given"])[0]
