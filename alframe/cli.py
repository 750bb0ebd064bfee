"""The `alframe` command: a verb, or overrides that run or resume an experiment, or sweep over many and compare them.

Hydra and torch take seconds to import, so that happens where they are used: a mistyped word is answered at once.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from alframe import __version__
from alframe.errors import AlframeError, Waiting, did_you_mean, expect
from alframe.verbs import VERBS, guarded, limit_spinning, say, say_error

if TYPE_CHECKING:
    from alframe.config.plan import Plan
    from alframe.dataset.growing import Growing
    from alframe.images import Data
    from alframe.record.record import Record

WAITING = os.EX_TEMPFAIL
"""Exit code of a run that waits for people: not a success, so that a script stops there, and not a failure."""


def main() -> int:
    """Console entry point. Returns the exit code: 0, or 1 after one line for each mistake or failed run, or 130 when interrupted,
    or 75 (EX_TEMPFAIL of sysexits.h: nothing failed, try again later) if people have not answered yet.
    """
    limit_spinning(os.environ)
    words = sys.argv[1:]
    word = words[0] if words else ""
    if word in VERBS:
        module, function, _ = VERBS[word]
        code: int = getattr(import_module(module), function)(words[1:], prog=f"alframe {word}")
        return code
    if "--version" in words:
        print(f"alframe {__version__}")
        return 0
    if word[:1].isalpha() and "=" not in word:
        hint = did_you_mean(word, VERBS, otherwise="; alframe --help lists them.")
        wanted = f"one of {', '.join(VERBS)}, or overrides such as strategy=margin"
        say_error(f"Expected {wanted}, got '{word}'{hint}")
        return 1
    return _run()


def resume(argv: Sequence[str] | None = None, *, prog: str = "alframe resume") -> int:
    """`alframe resume`: continue each run by the config in its folder. Exit codes are those of `main`."""
    from alframe.config.stored import ON_RESUME, resume_options, stored_plan

    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} RUN... [OPTION=VALUE...]",
        description="Continue runs by the config in their folders, wherever those are now. Finished runs are left alone.",
        epilog=f"Options: {', '.join(ON_RESUME)}. Beside these, what the run's parts allow: a higher budget.rounds extends a finished run.",
    )
    parser.add_argument("words", metavar="RUN, OPTION=VALUE", nargs="+", help="folders, and options for this launch")
    words = parser.parse_args(argv).words
    options = [word for word in words if "=" in word and "/" not in word.split("=", 1)[0] and not Path(word).is_dir()]
    folders = [Path(word) for word in words if word not in options]

    def work(outcome: Outcome) -> None:
        given = resume_options(options)
        outcome.wants_traceback = given.get("traceback") is True
        for folder in folders:
            outcome.run(partial(stored_plan, folder, **given), others=len(folders) > 1)

    return _exit_code(work)


def _run() -> int:
    from alframe.config.command import parse, plan_of, with_hydra
    from alframe.config.own_code import with_own
    from alframe.config.schema import NO_PRESET

    sys.argv[1:] = with_own([text for text in sys.argv[1:] if text not in NO_PRESET])
    arguments = parse(sys.argv[1:])

    def work(outcome: Outcome) -> None:
        outcome.wants_traceback = "traceback=true" in {text.lower() for text in arguments.overrides}
        plan = plan_of(arguments)
        if plan is None:
            with_hydra(outcome.run, arguments)
        else:
            outcome.run(lambda: plan)
        if len(outcome.cells) > 1:  # the table and the figure that a sweep was run for
            from alframe.report.cli import summarize

            every = dict.fromkeys(
                [*outcome.cells, *(folder for folder, _ in outcome.failures if folder and folder.is_dir())]
            )
            for study in sorted({cell.parent.parent for cell in outcome.cells}):
                summarize([cell for cell in every if cell.parent.parent == study], study)
        outcome.say_failures()

    return _exit_code(work)


@dataclass
class Outcome:
    """How the cells of a command ended: the folders of those that went through, folder (if known) and error of the others."""

    wants_traceback: bool = False
    cells: list[Path] = field(default_factory=list)
    failures: "list[tuple[Path | None, str]]" = field(default_factory=list)
    n_waiting: int = 0

    def run(self, make: "Callable[[], Plan]", *, others: bool = False, elsewhere: bool = False) -> None:
        """Execute a plan and record how it ended. `others`: a bug is reported like an error, since other cells are to run.

        `elsewhere`: this is another process, whose launcher passes errors on.
        """
        from alframe.config.own_code import blame

        folder = None
        try:
            plan = make()
            folder = plan.folder
            execute(plan)
            self.cells.append(folder)
        except Waiting as waiting:
            self.n_waiting += 1
            say(str(waiting), sys.stdout)
        except Exception as error:
            bug = not isinstance(error, (AlframeError, OSError)) and not blame(error)
            if elsewhere or (bug and not others):
                raise
            self.failed(error, folder)

    def failed(self, error: Exception, folder: Path | None = None) -> None:
        """Record an error and report it."""
        text = _in_words(error)
        self.failures.append((folder, text))
        say_error(text)
        if self.wants_traceback:
            traceback.print_exception(error)

    def say_failures(self) -> None:
        """At the end of a sweep: how many cells failed, which and why."""
        n = len(self.failures) + len(self.cells) + self.n_waiting
        if not self.failures or n < 2:
            return
        say_error(f"{len(self.failures)} of {n} cells failed; re-run the same command to try them again:")
        for folder, text in self.failures:
            say_error(f"  {folder or 'a cell that could not be built'}: {text.splitlines()[0]}")


def _in_words(error: Exception) -> str:
    """What an error says to a user, in one line for each mistake."""
    from alframe.config.own_code import blame
    from alframe.config.schema import COMPOSING, first_line

    if isinstance(error, AlframeError):
        return str(error)
    if isinstance(error, COMPOSING):
        return f"Expected a config that Hydra can compose, got: {first_line(error)}; see alframe --help."
    if where := blame(error):
        return f"Expected your code to work, got {type(error).__name__}: {first_line(error)} ({where}); fix it, or see more with traceback=true."
    if isinstance(error, OSError):
        return f"Expected the disk and files to work, got: {error}; fix it and re-run the same command to resume."
    return f"unexpected {type(error).__name__}: {first_line(error)}; run this cell alone with traceback=true."


def _exit_code(work: "Callable[[Outcome], None]") -> int:
    """Do the work of a command and report its errors."""
    from alframe.config.schema import COMPOSING

    outcome = Outcome()

    def whole() -> int:
        try:
            work(outcome)
        except (AlframeError, OSError, *COMPOSING) as error:
            if isinstance(error, BrokenPipeError):
                raise
            outcome.failed(error)
        return 1 if outcome.failures else WAITING if outcome.n_waiting else 0

    return guarded(whole, "Re-run the same command to resume.")


def launch(*overrides: str, config_dir: str | None = None) -> list[dict[str, object]]:
    """What the command does with these overrides, from Python: run, resume, or leave alone; returns the round lines.

    `config_dir`: a folder of YAML files of your own, in groups like ours (`strategy/mine.yaml`), as in `--config-dir`.
    Raises the errors that the command prints, and `Waiting` where people have not answered yet.
    """
    from alframe.config.overrides import load

    return execute(load(overrides, config_dir))


def execute(plan: "Plan") -> list[dict[str, object]]:
    """Run a plan in its folder, or resume it there; a finished run is left alone. Returns its round lines."""
    from alframe.clock import Clock
    from alframe.console import RoundTable, what_was_found
    from alframe.learner import cpu_threads
    from alframe.loop import run
    from alframe.record.failure import noting_failure
    from alframe.record.read import first_threads
    from alframe.record.record import Record

    options = plan.options
    flags = {key: options[key] for key in ("overwrite", "tensorboard", "maps")}
    record = Record(plan.folder, plan.identity, plan.declared, keep_checkpoint=options["checkpoint"], **flags)
    with closing(record), noting_failure(plan.folder), cpu_threads(options["threads"] or first_threads(plan.folder)):
        clock = Clock()
        if options["profile"]:
            from alframe.record.profile import Profile

            clock = Profile(record.layout.profile, plan.device)
        if record.finished:
            say(
                f"{plan.folder}: finished already ({record.stopped}); nothing to do. Raise budget.rounds to extend it, or set run.overwrite=true to start again.",
                sys.stdout,
            )
            _say_all(clock.report())
            return record.rounds
        how = f"resuming after {record.done} rounds" if record.done else "starting"
        _say_all([f"{plan.folder}: {how} on {plan.device}", *([plan.kept] if plan.kept else [])])
        data, photos = _data(plan, record)
        say(what_was_found(data), sys.stdout)
        table = RoundTable.of_data(data)
        lines = run(plan.experiment(data, photos, clock), record, table)
        table.summary(lines, plan.folder)
        _say_all(clock.report())
        return lines


def _data(plan: "Plan", record: "Record") -> "tuple[Data, Growing | None]":
    """The dataset of a run, and where more photos come from, if any do."""
    from alframe.dataset.base import history_of

    photos = history_of(plan.dataset, plan.folder)
    if photos is None:
        return plan.dataset.load(plan.cache), None
    expect(
        not plan.parts["annotator"].needs_labels,
        "Expected people to label unlabelled photos, got an annotator that answers with the dataset's own labels; "
        "use annotator=queue or annotator=label_studio, or take the folder of unlabelled photos away.",
    )
    if place := (record.began.get("dataset") or {}).get("root"):
        photos.check_place(place)
    photos.refresh(record.done, again=record.reopened)
    _say_all(photos.notes())
    return photos.data(), photos


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line, sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
