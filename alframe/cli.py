"""The `alframe` command: run or resume one experiment, or a Hydra multirun followed by a comparison."""

import os
import sys
import traceback
from pathlib import Path

import hydra
import torch
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from alframe import __version__
from alframe.config import CONFIGS, Plan, build, check_overrides, composer, load
from alframe.console import RoundTable
from alframe.errors import AlframeError
from alframe.loop import run
from alframe.record import Record


def main() -> None:
    """Console entry point. Exit code 0, or 1 after one line for each mistake or failed run, or 130 when interrupted."""
    sys.path.insert(0, os.getcwd())  # a user's own classes, named by _target_, lie in the folder they work in
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, not to Hydra's own printing
    if "--version" in sys.argv[1:]:
        say(f"alframe {__version__}")
        raise SystemExit(0)
    arguments, _ = get_args_parser().parse_known_args()
    wants_traceback = "traceback=true" in {text.lower() for text in arguments.overrides}
    cells: list[Path] = []
    try:
        asks_hydra = (arguments.help, arguments.hydra_help, arguments.info, arguments.cfg, arguments.shell_completion)
        if not any(asks_hydra):
            with composer(arguments.config_dir) as compose:
                check_overrides(arguments.overrides, compose)
        _hydra_main(cells)
    except AlframeError as error:
        if not getattr(error, "told", False):
            _tell(error)
        if wants_traceback:
            traceback.print_exc()
        failed = True
    except OSError as error:
        _tell(
            AlframeError(
                f"Expected the disk and files to work, got: {error}; mend it and run the same command again to go on."
            )
        )
        if wants_traceback:
            traceback.print_exc()
        failed = True
    except KeyboardInterrupt:
        say("Interrupted. The same command again goes on where this one stopped.", error=True)
        raise SystemExit(130) from None
    else:
        failed = False
    if len(cells) > 1:
        _compare(cells)
    raise SystemExit(int(failed))


def _hydra_main(cells: list[Path]) -> None:
    @hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
    def task(cfg: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        try:
            plan = build(cfg, dict(hydra_config.runtime.choices), list(hydra_config.overrides.task))
            cells.append(plan.folder)
            execute(plan)
        except AlframeError as error:
            _tell(error)  # a failed cell of a sweep is told at once, and the other cells go on
            error.told = True  # type: ignore[attr-defined]
            raise

    task()


def launch(*overrides: str) -> list[dict[str, object]]:
    """What the command does with these overrides, from Python: run, go on, or leave alone; returns the round lines.

    Raises the errors that the command prints.
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
        overwrite=options["overwrite"],
        tensorboard=options["tensorboard"],
        keep_checkpoint=options["checkpoint"],
    )
    try:
        if record.stopped:
            say(f"{plan.folder}: finished already ({record.stopped}); nothing to do. run.overwrite=true starts again.")
            return record.rounds
        say(f"{plan.folder}: {f'going on after {record.done} rounds' if record.done else 'starting'} on {plan.device}")
        data = plan.dataset.load(plan.cache)
        experiment = plan.experiment(data)
        record.begin(
            {
                "dataset": data.name,
                "classes": list(data.pool.classes),
                "n_pool": len(data.pool),
                "n_test": len(data.test),
                "data_hash": data.content_hash,
            },
            plan.device,
        )
        table = RoundTable(binary=data.pool.n_classes == 2)
        lines = run(experiment, record, table)
        table.summary(lines, plan.folder)
        return lines
    finally:
        record.close()


def _compare(cells: list[Path]) -> None:
    """The table and the figure that a sweep was run for."""
    from alframe.report.cli import summarize

    studies = sorted({cell.parent.parent for cell in cells})
    for study in studies:
        summarize([cell for cell in dict.fromkeys(cells) if cell.parent.parent == study], study)


def say(text: str, *, error: bool = False) -> None:
    """One line to a person: unwrapped, so that it can be copied and searched."""
    Console(stderr=error, highlight=False).print(text, markup=False, soft_wrap=True, style="red" if error else None)


def _tell(error: AlframeError) -> None:
    for line in str(error).splitlines():
        say(f"error: {line}", error=True)


if __name__ == "__main__":
    main()
