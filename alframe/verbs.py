"""The verbs of the `alframe` command, and their common error handling. Nothing heavy is imported."""

import os
import sys
import warnings
from collections.abc import Callable, MutableMapping
from typing import TextIO

from alframe.errors import AlframeError

VERBS = {
    "report": ("alframe.report.cli", "main", "compare finished runs: tables, learning curves, verdicts"),
    "export": ("alframe.handover.cli", "export_main", "write a run's trained model and its labels to a folder"),
    "predict": ("alframe.handover.cli", "predict_main", "class and uncertainty of image files, as CSV"),
    "queue": ("alframe.annotator.cli", "main", "a run's open questions for people: status, export, import"),
    "resume": ("alframe.cli", "resume", "continue runs from their folders, without retyping overrides"),
}
"""Verb: module, function, help. The function takes the arguments after the verb and `prog`, and returns an exit code."""


def listed() -> str:
    """The verbs and their help, as `alframe --help` shows them."""
    return "\n".join(f"  alframe {verb:<9} {text}" for verb, (_, _, text) in VERBS.items())


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, to stderr by default; unprintable characters (as in file names) are escaped."""
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode() for each in text
    )
    print(shown, file=stream or sys.stderr, flush=True)


def say_error(error: Exception | str) -> None:
    """One line on stderr for each line of an error, red on a terminal."""
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    for line in str(error).splitlines():
        print(f"{red}error: {line}{plain}", file=sys.stderr, flush=True)


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Let idle OpenMP threads sleep after some 1,000 turns of waiting, so that other programs get their cores.

    Read when torch is imported; a choice of the user's stands.
    """
    if not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}:
        environment["GOMP_SPINCOUNT"] = "1000"


def guarded(work: Callable[[], int], interrupted: str = "Nothing was written.") -> int:
    """The exit code of a command: what `work` returns, or 1 after one line for an error that the user can fix, or 130 if interrupted."""
    limit_spinning(os.environ)
    try:
        with warnings.catch_warnings():  # e.g. for a photo of 90 megapixels: without a line of PIL's source
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            return work()
    except BrokenPipeError:  # the reader of our output has gone (`alframe --help | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except AlframeError as error:
        say_error(error)
    except OSError as error:
        say_error(f"Expected the disk and files to work, got: {error}; fix it and re-run the same command.")
    except KeyboardInterrupt:
        say(f"Interrupted. {interrupted}")
        return 130
    return 1
