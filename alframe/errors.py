"""Every error a user can cause. Grammar: *Expected <what> <constraint>, got <value>; <what to do>.*

The command line prints the message alone, in one line, and exits with 1; the traceback is behind `traceback=true`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AlframeError(Exception):
    """Base of all errors below: something the user can mend."""


class ConfigError(AlframeError):
    """An option is unknown, missing, or out of its range."""


class DataError(AlframeError):
    """A file, image, label or folder is not what it should be."""


class PoolError(AlframeError):
    """The labelled set or the pool cannot serve what was asked of it."""


class TrainingError(AlframeError):
    """Training cannot go on (a non-finite loss, for instance)."""


class StrategyError(AlframeError):
    """A strategy broke its contract (NaN, repeated or out-of-range positions)."""


class RunFolderError(AlframeError):
    """The run folder is locked, belongs to another config, or is damaged."""


class ProtocolError(AlframeError):
    """A comparison is open to objections, and was asked not to be."""


class Waiting(Exception):
    """People have not answered yet. Not an error: everything is stored, and the same command goes on once they have."""


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """`; did you mean 'entropy'?`, or `otherwise` when nothing known is close to `word`, whatever their case."""
    spelt = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), list(spelt), n=1, cutoff=0.6)
    return f"; did you mean '{spelt[close[0]]}'?" if close else otherwise


def expect(condition: bool, message: str, error: type[AlframeError] = ConfigError) -> None:
    """Raise `error(message)` unless `condition` holds."""
    if not condition:
        raise error(message)
