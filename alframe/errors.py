"""Every error a user can cause. Grammar: *Expected <what> <constraint>, got <value>; <what to do>.*

The command line prints only the message, on one line, and exits with 1; `traceback=true` shows the traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AlframeError(Exception):
    """Base of all errors below: something the user can fix."""


class ConfigError(AlframeError):
    """An option is unknown, missing, or out of its range."""


class DataError(AlframeError):
    """A file, image, label or folder is missing, malformed or inconsistent."""


class PoolError(AlframeError):
    """The labelled set or the pool cannot satisfy a request."""


class TrainingError(AlframeError):
    """Training cannot continue (a non-finite loss, for instance)."""


class StrategyError(AlframeError):
    """A strategy broke its contract (NaN, repeated or out-of-range positions)."""


class RunFolderError(AlframeError):
    """The run folder is locked, belongs to another config, or is damaged."""


class ProtocolError(AlframeError):
    """A strict comparison found a problem with the protocol."""


class Waiting(Exception):
    """People have not answered yet. Not an error: everything is stored; re-run the same command to resume."""


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """`; did you mean 'entropy'?`, or `otherwise` if no known word is close to `word`, ignoring case."""
    spelt = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), list(spelt), n=1, cutoff=0.6)
    return f"; did you mean '{spelt[close[0]]}'?" if close else otherwise


def expect(condition: bool, message: str, error: type[AlframeError] = ConfigError) -> None:
    """Raise `error(message)` unless `condition` holds."""
    if not condition:
        raise error(message)
