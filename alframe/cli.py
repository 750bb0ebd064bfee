"""The `alframe` command: run or resume one experiment, or a Hydra multirun followed by a comparison."""

import os
import sys
import tempfile
import traceback
import warnings
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from alframe import __version__
from alframe.clock import Clock
from alframe.config import COMPOSING, CONFIGS, NO_PRESET, Plan, build, check_overrides, composer, first_line, load
from alframe.console import RoundTable
from alframe.dataset.base import history_of
from alframe.errors import AlframeError, Waiting, expect
from alframe.loop import run
from alframe.record.record import Record

WAITING = os.EX_TEMPFAIL
"""Exit code of a run that waits for people: not a success, so that a script stops there, and not a failure."""


def main() -> None:
    """Console entry point. Exit code 0, or 1 after one line for each mistake or failed run, or 130 when interrupted, or 75
    (EX_TEMPFAIL of sysexits.h: nothing failed, try again later) where people have not answered yet.
    """
    sys.path.append(os.getcwd())  # a user's own classes, named by _target_, lie in the folder they work in
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, not to Hydra's own printing
    if "--version" in sys.argv[1:]:
        say(f"alframe {__version__}")
        raise SystemExit(0)
    warnings.showwarning = lambda message, *_: say(f"warning: {message}", error=True)  # without a line of our source
    sys.argv = [text for text in sys.argv if text not in NO_PRESET]
    arguments, _ = get_args_parser().parse_known_args()
    outcome = Outcome("traceback=true" in {text.lower() for text in arguments.overrides})
    try:
        asks_hydra = (arguments.help, arguments.hydra_help, arguments.info, arguments.cfg, arguments.shell_completion)
        if not any(asks_hydra):
            with composer(arguments.config_dir) as compose:
                check_overrides(arguments.overrides, compose, multirun=arguments.multirun or None)
        with tempfile.TemporaryDirectory() as folder:
            if not any(text.startswith("hydra/launcher=") for text in arguments.overrides):
                os.environ["ALFRAME_SWEEP_DIR"] = (
                    folder  # Hydra's own note of a sweep; other launchers may share theirs
                )
            _hydra_main(outcome)
        if len(outcome.cells) > 1:
            _compare(outcome.cells)
    except BrokenPipeError:  # whoever read our output has gone (`alframe --help | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (AlframeError, OSError, *COMPOSING) as error:
        outcome.failed(error)
    except KeyboardInterrupt:
        say("Interrupted. The same command again goes on where this one stopped.", error=True)
        raise SystemExit(130) from None
    raise SystemExit(1 if outcome.errors else WAITING if outcome.n_waiting else 0)


@dataclass
class Outcome:
    """What became of the cells of a command: the folders of those that went through, the errors of the others."""

    wants_traceback: bool
    cells: list[Path] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    n_waiting: int = 0

    def failed(self, error: Exception) -> None:
        """Note an error and tell it at once."""
        self.errors.append(error)
        _tell(error)
        if self.wants_traceback:
            traceback.print_exception(error)


def _hydra_main(outcome: Outcome) -> None:
    @hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
    def task(cfg: DictConfig) -> None:
        context = HydraConfig.get()
        sweep = context.mode is RunMode.MULTIRUN
        try:
            plan = build(cfg, dict(context.runtime.choices), list(context.overrides.task))
            execute(plan)
            outcome.cells.append(plan.folder)
        except Waiting as waiting:
            outcome.n_waiting += 1
            say(str(waiting))
        except Exception as error:
            elsewhere = sweep and not context.launcher._target_.endswith(".BasicLauncher")  # another process's outcome
            bug = not isinstance(error, (AlframeError, OSError))
            if elsewhere or (bug and not sweep):
                raise
            outcome.failed(error)  # and the other cells go on

    task()


def launch(*overrides: str) -> list[dict[str, object]]:
    """What the command does with these overrides, from Python: run, go on, or leave alone; returns the round lines.

    Raises the errors that the command prints, and `Waiting` where people have not answered yet.
    """
    return execute(load(overrides))


def execute(plan: Plan) -> list[dict[str, object]]:
    """Run a plan in its folder, or go on with it; a finished one is left alone. Returns its round lines."""
    options = plan.options
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    record = Record(
        plan.folder,
        plan.identity,
        plan.declared,
        overwrite=options["overwrite"],
        tensorboard=options["tensorboard"],
        keep_checkpoint=options["checkpoint"],
    )
    with closing(record):
        if options["profile"]:
            from alframe.record.profile import Profile
        clock = Profile(record.layout.profile, plan.device) if options["profile"] else Clock()
        if record.finished:
            say(
                f"{plan.folder}: finished already ({record.stopped}); nothing to do. A higher budget.rounds goes on, run.overwrite=true starts again."
            )
            _say_all(clock.report())
            return record.rounds
        say(f"{plan.folder}: {f'going on after {record.done} rounds' if record.done else 'starting'} on {plan.device}")
        photos = history_of(plan.dataset, plan.folder)
        if photos is None:
            data = plan.dataset.load(plan.cache)
        else:
            expect(
                not plan.parts["annotator"].needs_labels,
                "Expected people to label unlabelled photos, got an annotator that answers with the dataset's own labels; "
                "use annotator=queue or annotator=label_studio, or take the folder of unlabelled photos away.",
            )
            photos.refresh(record.done, again=record.reopened)
            _say_all(photos.notes())
            data = photos.data()
        experiment = plan.experiment(data, photos, clock)
        table = RoundTable(binary=data.pool.n_classes == 2, of="test" if len(data.test) else "validation")
        lines = run(experiment, record, table)
        table.summary(lines, plan.folder)
        _say_all(clock.report())
        return lines


def _compare(cells: list[Path]) -> None:
    """The table and the figure that a sweep was run for."""
    from alframe.report.cli import summarize

    studies = sorted({cell.parent.parent for cell in cells})
    for study in studies:
        summarize([cell for cell in dict.fromkeys(cells) if cell.parent.parent == study], study)


def say(text: str, *, error: bool = False) -> None:
    """One line to a person: unwrapped, so that it can be copied and searched."""
    Console(stderr=error, highlight=False).print(text, markup=False, soft_wrap=True, style="red" if error else None)


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _tell(error: Exception) -> None:
    if isinstance(error, AlframeError):
        text = str(error)
    elif isinstance(error, COMPOSING):
        text = f"Expected a config that Hydra can compose, got: {first_line(error)}; see alframe --help."
    elif isinstance(error, OSError):
        text = f"Expected the disk and files to work, got: {error}; mend it and run the same command again to go on."
    else:
        text = f"unexpected {type(error).__name__}: {first_line(error)}; run this cell alone with traceback=true."
    for line in text.splitlines():
        say(f"error: {line}", error=True)


if __name__ == "__main__":
    main()
