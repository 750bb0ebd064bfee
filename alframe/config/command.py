"""The command line as Hydra parses it. Sweeps, help and the printed config are Hydra's; a single run needs its parser alone."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from alframe.config.choices import choices
from alframe.config.overrides import check_overrides, search_path
from alframe.config.schema import CONFIGS, composer
from alframe.record.read import first_threads

if TYPE_CHECKING:
    from alframe.config.plan import Plan

SHOWING = ("help", "hydra_help", "info", "cfg", "shell_completion")


def parse(words: list[str]) -> Namespace:
    """The flags and `overrides` of a command line. Exits with 2 for an unknown flag."""
    return get_args_parser().parse_args(words)


def plan_of(arguments: Namespace) -> "Plan | None":
    """The plan of a single run; None where Hydra takes over: to show something, or for a sweep, whose cells are checked.

    Raises `ConfigError` with every mistake.
    """
    if any(getattr(arguments, name) for name in SHOWING):
        return None
    with composer(search_path(arguments.overrides, arguments.config_dir)) as compose:
        plan = check_overrides(arguments.overrides, compose, multirun=arguments.multirun or None)
    flags = {name for name, value in vars(arguments).items() if value} - {"overrides", "config_dir", "run"}
    keys = [text.lstrip("+~").split("=", 1)[0] for text in arguments.overrides]
    own = [
        key for key in keys if key.startswith("hydra") and key not in ("hydra.mode", "hydra.searchpath")
    ]  # Hydra alone knows what they do
    return None if flags or own else plan


def with_hydra(run: Callable[..., None], arguments: Namespace) -> None:
    """Hand `sys.argv` to Hydra, which shows what was asked for, or calls `run` (see `cli.Outcome.run`) for every cell."""

    @hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
    def job(cfg: DictConfig) -> None:
        from alframe.config.plan import build

        context = HydraConfig.get()
        overrides = list(context.overrides.task)
        sweep = context.mode is RunMode.MULTIRUN
        elsewhere = sweep and not context.launcher._target_.endswith(".BasicLauncher")

        def make() -> "Plan":
            plan = build(cfg, dict(context.runtime.choices), overrides)
            return share_cores(plan, overrides) if elsewhere else plan

        run(make, others=sweep, elsewhere=elsewhere)

    OmegaConf.register_new_resolver("alframe.choices", choices, replace=True)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, not to Hydra's own printing
    with tempfile.TemporaryDirectory() as folder:
        if not any(text.startswith("hydra/launcher=") for text in arguments.overrides):
            os.environ["ALFRAME_SWEEP_DIR"] = folder  # Hydra's own note of a sweep; other launchers may share theirs
        job()


def share_cores(plan: "Plan", overrides: list[str]) -> "Plan":
    """One thread for a cell that runs beside others, unless the command, its preset or the run's first launch says otherwise."""
    given = any(text.lstrip("+").startswith("threads=") for text in overrides)
    if given or plan.options["threads"] is not None or first_threads(plan.folder) is not None:
        return plan
    return replace(plan, options={**plan.options, "threads": 1})
