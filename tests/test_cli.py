"""The command, in processes of its own: what a person types and what they get."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from tests_support import forked

from alframe.cli import launch, limit_spinning, main
from alframe.config.command import share_cores
from alframe.config.overrides import load
from alframe.verbs import VERBS

pytestmark = pytest.mark.slow
TINY = [
    "dataset.pool_size=60",
    "dataset.test_size=40",
    "dataset.size=32",
    "model.width=4",
    "uncertainty.draws=3",
    "trainer.epochs=1",
    "trainer.min_steps=5",
    "run.tensorboard=false",
]
BUDGET = ["budget.initial=20", "budget.query_size=5", "budget.rounds=2"]


def installed(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program itself, which imports everything anew: for what depends on the interpreter it starts in."""
    command = [str(Path(sys.executable).with_name("alframe")), *arguments]
    environment = {**os.environ, "COLUMNS": "200", "ALFRAME_CACHE": str(cwd / "cache"), **environment}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def alframe(*arguments: str, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program's entry point in a forked process, with arguments, folder, output and exit code of its own."""
    environment = {"COLUMNS": "200", "ALFRAME_CACHE": str(cwd / "cache"), **environment}
    done = forked(main, ["alframe", *arguments], cwd, environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def read(folder: Path):
    return [
        [
            {k: v for k, v in json.loads(text).items() if not k.endswith("_s")}
            for text in (folder / name).read_text().splitlines()
        ]
        for name in ("ledger.jsonl", "rounds.jsonl")
    ]


def cells(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("rounds.jsonl"))


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """What a run and a sweep import, so that a forked process need not."""
    for name in (
        "alframe.config.command",
        "alframe.config.stored",
        "alframe.report.cli",
        "matplotlib.backends.backend_agg",
    ):
        import_module(name)
    folder = tmp_path_factory.mktemp("imported")
    options = ["budget.rounds=0", "progress=false", f"run.root={folder}", f"cache={folder}"]
    launch(*TINY, *BUDGET[:1], *options)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A run made by the command, which the tests below look at."""
    folder = tmp_path_factory.mktemp("work")
    done = installed(*TINY[:-1], *BUDGET, cwd=folder)  # with TensorBoard
    return folder, done


def test_a_run_prints_a_line_a_round_and_leaves_only_its_folder(workplace):
    folder, done = workplace
    assert {path.name for path in folder.iterdir()} <= {"runs", "cache"}
    (run,) = cells(folder / "runs")
    assert [line["labels"] for line in read(run)[1]] == [20, 25, 30]
    assert "labels" in done.stdout
    assert "budget spent" in done.stdout.lower()
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "provenance.json",
        "ledger.jsonl",
        "rounds.jsonl",
        "queries",
        "tensorboard",
    }


def test_a_finished_command_run_again_does_nothing_and_says_so(workplace):
    folder, _ = workplace
    (run,) = cells(folder / "runs")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    done = alframe(*TINY, *BUDGET, cwd=folder)
    assert "finished already" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_sweep_fills_in_missing_cells_compares_and_tells_failures(tmp_path):
    sweep = ["-m", "strategy=random,bald", "uncertainty=point,mc_dropout", "seed=0,1", "run.name=sweep"]
    tiny = [option for option in TINY if not option.startswith("uncertainty")]
    told = alframe(*sweep, *tiny, *BUDGET, cwd=tmp_path, check=False)
    assert told.returncode == 1
    assert "use uncertainty=mc_dropout" in told.stderr

    sweep[2] = "uncertainty=mc_dropout"
    done = alframe(*sweep, *tiny, *BUDGET, cwd=tmp_path)
    assert len(cells(tmp_path / "runs")) == 4
    assert (tmp_path / "runs/sweep/curves.png").stat().st_size > 5000
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["sweep"]
    assert not list(tmp_path.rglob("multirun.yaml"))
    assert "random" in done.stdout
    one = cells(tmp_path / "runs")[0]
    for path in (one / "rounds.jsonl", one / "ledger.jsonl"):
        path.unlink()
    for path in (one / "queries").iterdir():
        path.unlink()
    again = alframe(*sweep, *tiny, *BUDGET, cwd=tmp_path)
    assert again.stdout.count("finished already") == 3


def test_a_failing_cell_does_not_stop_the_others(tmp_path):
    # The pool of 60 is too small for one of the cells.
    done = alframe(
        "-m",
        "budget.initial=10,60",
        "run.name=sweep",
        *TINY,
        "budget.query_size=5",
        "budget.rounds=1",
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    told, summary, which = done.stderr.splitlines()
    assert "within the pool of 60 images, got 65" in told
    assert summary.startswith("error: 1 of 2 cells failed")
    assert "seed=0: Expected a budget within" in which
    assert len([path for path in cells(tmp_path / "runs") if read(path)[1]]) == 1


def test_every_failing_cell_is_told_and_nothing_else(tmp_path):
    done = alframe("-m", "budget.initial=60,70", *TINY, "budget.query_size=5", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 5
    for size in (85, 95):
        assert f"within the pool of 60 images, got {size}" in done.stderr


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_run_that_fails_is_one_line(tmp_path, sweep):
    done = alframe(*sweep, "budget.initial=5000", *TINY, cwd=tmp_path, check=False)
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert "within the pool of 60 images" in told


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_root_that_cannot_be_written_is_one_line(tmp_path, sweep):
    (tmp_path / "file").touch()
    done = alframe(*sweep, "run.root=file/x", *TINY, cwd=tmp_path, check=False)
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert "choose another run.root" in told


BROKEN = """
from dataclasses import dataclass
from alframe.strategy.random import Random
@dataclass(frozen=True)
class Mine(Random):
    fails: bool = False
    def select(self, views, size, generator):
        if self.fails:
            raise ValueError("mine")
        return super().select(views, size, generator)
"""


def test_a_bug_in_one_cell_of_a_sweep_is_one_line_and_a_class_of_ones_own_shadows_nothing(tmp_path):
    (tmp_path / "mylab.py").write_text(BROKEN)
    for name in ("pandas", "scipy", "tqdm", "PIL"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    own = ["strategy=custom", "strategy._target_=mylab.Mine"]
    done = installed("-m", *own, "+strategy.fails=true,false", *TINY, *BUDGET, cwd=tmp_path, check=False)
    assert done.returncode == 1
    told, summary, which = done.stderr.splitlines()
    assert told.startswith("error: Expected your code to work, got ValueError: mine (mylab.py, line ")
    assert summary == "error: 1 of 2 cells failed; re-run the same command to try them again:"
    assert which.endswith(told.removeprefix("error: "))
    assert sum(bool(read(path)[1]) for path in cells(tmp_path / "runs")) == 1
    alone = installed(*own, "+strategy.fails=true", *TINY, *BUDGET, cwd=tmp_path, check=False)
    assert alone.returncode == 1
    assert "Traceback" not in alone.stderr
    assert ", in select); fix it, or see more with traceback=true." in alone.stderr


def test_more_rounds_extend_a_finished_run(tmp_path):
    for rounds in (1, 2):
        alframe(*TINY, *BUDGET[:2], f"budget.rounds={rounds}", cwd=tmp_path)
        (run,) = cells(tmp_path / "runs")
        assert len(read(run)[1]) == rounds + 1


def test_a_config_folder_that_is_not_there_is_one_line(tmp_path):
    done = alframe("--config-dir", "nowhere", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_mistakes_are_one_line_each_and_exit_with_1(tmp_path):
    done = installed("strategy=entrpy", "trainer.lrr=1", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 2
    assert "did you mean 'entropy'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_traceback_is_behind_a_flag(tmp_path):
    done = alframe("budget.initial=5000", "traceback=true", *TINY, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_killed_command_run_again_arrives_at_the_same_result(workplace, tmp_path):
    folder, _ = workplace
    (undisturbed,) = cells(folder / "runs")
    command = [str(Path(sys.executable).with_name("alframe")), *TINY, *BUDGET]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "ALFRAME_CACHE": str(folder / "cache")}, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("runs/*/*/*/queries/initial.json")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the kill did not come"
    alframe(*TINY, *BUDGET, cwd=tmp_path)
    (run,) = cells(tmp_path / "runs")
    assert read(run) == read(undisturbed)


def test_resuming_leaves_a_finished_run_alone_extends_it_and_completes_an_unfinished_one_wherever_they_lie(workplace):
    folder, _ = workplace
    (run,) = cells(folder / "runs")
    finished, cut = folder / "cache/seed=0", folder / "cache/moved,a=1"
    for copy in (finished, cut):
        shutil.copytree(run, copy)
    (cut / "rounds.jsonl").write_text("".join((run / "rounds.jsonl").read_text().splitlines(keepends=True)[:1]))
    for name in ("round_001", "round_002"):
        (cut / f"queries/{name}.json").unlink()
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (cut / "ledger.jsonl").write_text("".join(line for line in lines if json.loads(line)["round"] < 2))

    done = alframe("resume", "cache/seed=0", "cache/moved,a=1", "progress=false", cwd=folder)
    assert "cache/seed=0: finished already" in done.stdout
    assert "cache/moved,a=1: resuming after 1 rounds on cpu" in done.stdout
    assert read(cut) == read(finished) == read(run)

    alframe("resume", "seed=0", "budget.rounds=3", "run.tensorboard=false", cwd=folder / "cache")
    assert [line["labels"] for line in read(finished)[1]] == [20, 25, 30, 35]
    for copy in (finished, cut):
        shutil.rmtree(copy)


def test_what_cannot_be_resumed_is_one_line_each(workplace):
    folder, _ = workplace
    (run,) = cells(folder / "runs")
    told = alframe("resume", str(run), "strategy=bald", "trainer.lr=1", cwd=folder, check=False)
    assert told.returncode == 1
    assert "got strategy=bald, trainer.lr=1; its config fixes all but device, threads" in told.stderr
    told = alframe("resume", "nowhere/seed=0", str(run), "runs", cwd=folder, check=False)
    assert told.returncode == 1
    assert ["got nowhere/seed=0;" in told.stderr, "got runs;" in told.stderr] == [True, True]
    assert len(told.stderr.splitlines()) == 2
    assert "finished already" in told.stdout
    assert not (folder / "nowhere").exists()


LAUNCHER = """
from dataclasses import dataclass
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
class Parallel(BasicLauncher):
    pass
@dataclass
class Options:
    _target_: str = "hydra_plugins.parallel.Parallel"
ConfigStore.instance().store(group="hydra/launcher", name="parallel", node=Options)
"""


def test_cells_beside_each_other_take_one_thread_each(tmp_path):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/parallel.py").write_text(LAUNCHER)
    sweep = ["-m", "hydra/launcher=parallel", "seed=0", *TINY, *BUDGET[:2], "budget.rounds=0"]
    installed(*sweep, cwd=tmp_path, OMP_NUM_THREADS="2", PYTHONPATH=f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}")
    (run,) = cells(tmp_path / "runs")
    (launch,) = json.loads((run / "provenance.json").read_text())["launches"]
    assert launch["device"]["threads"] == 1


def test_threads_of_a_preset_or_the_command_stand_beside_other_cells():
    for threads, overrides, expected in ((None, [], 1), (4, [], 4), (None, ["threads=null"], None)):
        plan = replace(load(["run.root=nowhere"]), options={"threads": threads})
        assert share_cores(plan, overrides).options["threads"] == expected


def test_idle_threads_spin_briefly_unless_the_user_chose():
    for chosen, expected in (({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "5"}, "5")):
        environment = dict(chosen)
        limit_spinning(environment)
        assert environment.get("GOMP_SPINCOUNT") == expected


WITHOUT_TORCH = """
import sys
from alframe.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
slow = [name for name in ("torch", "scipy", "matplotlib", "sklearn", "tensorboard") if name in sys.modules]
sys.exit(f"imported {slow}" if slow else code)
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["--help"]),
        (0, ["--version"]),
        (0, ["-sc", "query=bash"]),
        (1, ["trainer.lrr=0.1"]),
        (1, ["model=resnet_18"]),
        (1, ["reprot", "x"]),
        (1, ["resume", "nowhere"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_completion_and_misspelt_words_import_nothing_slow(tmp_path, code, words):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        cwd=tmp_path,
        env={**os.environ, "COMP_LINE": "alframe strategy=mar", "COMP_POINT": "20"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert "imported" not in done.stderr
    assert words != ["-sc", "query=bash"] or done.stdout.split() == ["strategy=margin"]


def test_a_misspelt_verb_is_one_line_with_a_suggestion(tmp_path):
    done = alframe("reprot", "runs/x", cwd=tmp_path, check=False)
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert told.endswith("got 'reprot'; did you mean 'report'?")
    assert "alframe --help lists them." in alframe("xyzzy", cwd=tmp_path, check=False).stderr


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_and_their_dashed_aliases_show_the_name_that_was_typed(tmp_path, verb):
    assert alframe(verb, "--help", cwd=tmp_path).stdout.startswith(f"usage: alframe {verb} ")
    alias = Path(sys.executable).with_name(f"alframe-{verb}")
    if alias.exists():
        done = subprocess.run([str(alias), "--help"], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.startswith(f"usage: alframe-{verb} ")


def test_a_verb_returns_the_exit_code_of_its_command(workplace):
    folder, _ = workplace
    assert alframe("report", "nowhere", cwd=folder, check=False).returncode == 1
    assert "least_confidence" in alframe("report", "runs", "--out", "cache/report", cwd=folder).stdout


def test_options_of_hydra_work_for_a_single_run_too(tmp_path):
    words = [*TINY, *BUDGET[:2], "budget.rounds=0", "+hydra.job.env_set.ALFRAME_CACHE=elsewhere"]
    alframe(*words, cwd=tmp_path)
    assert (tmp_path / "elsewhere").is_dir()
    assert len(cells(tmp_path / "runs")) == 1


def test_help_lists_the_verbs_and_the_parts(tmp_path):
    done = alframe("--help", cwd=tmp_path)
    for verb, (_, _, text) in VERBS.items():
        assert f"alframe {verb:<9} {text}" in done.stdout
    for word in ("\nstrategy:\n", "  margin ", "\ndataset:\n", "  elpv ", "Solar cells", "\nbudget:\n"):
        assert word in done.stdout


def test_python_m_alframe_is_the_same_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "alframe", "strategy=entrpy"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "did you mean 'entropy'" in done.stderr


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    command = f"'{Path(sys.executable).with_name('alframe')}' --help | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("alframe")
    assert done.stderr == ""


def test_images_in_both_pool_and_test_are_told(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 16, 16)).astype(np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "twins.npz", images=pixels, labels=labels, test_images=pixels[:3], test_labels=labels[:3])
    fast = ["debug=fast", "strategy=random", "threads=1", "run.tensorboard=false"]
    done = alframe("dataset=arrays", "dataset.root=twins.npz", *fast, cwd=tmp_path)
    assert "3 test images have an exact copy in the pool" in done.stderr


def test_people_label_between_launches_and_get_the_oracles_run(workplace, tmp_path):
    """Three questions to a person whose spreadsheet saves as Windows likes it; exit code 75 while they are open."""
    from alframe.config.overrides import load

    waiting, launches = ["run.root=people", "annotator=queue", *TINY, *BUDGET], 0
    data = load(["dataset=defects", *TINY]).dataset.load(tmp_path / "cache")
    answers = {id: data.pool.classes[label] for id, label in zip(data.pool.ids, data.pool.labels, strict=True)}
    while (done := alframe(*waiting, cwd=tmp_path, check=False)).returncode == 75:
        assert "Waiting for" in done.stdout
        assert "error" not in done.stderr
        [folder] = cells(tmp_path / "people")
        path = sorted((folder / "queue").glob("*.csv"))[-1]
        rows = [line.split(",", 7) for line in path.read_text(encoding="utf-8-sig").splitlines()]
        column = rows[0].index("id")
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            file.write("id;answer\r\n" + "".join(f"{row[column]};{answers[row[column]]}\r\n" for row in rows[1:]))
        launches += 1
    assert (done.returncode, launches) == (0, 3), done.stdout + done.stderr
    [by_oracle] = cells(workplace[0] / "runs")[:1]
    who = ("annotator", "people/")
    for ours, theirs in zip(read(folder), read(by_oracle), strict=True):
        assert [{k: v for k, v in line.items() if not k.startswith(who)} for line in ours] == [
            {k: v for k, v in line.items() if not k.startswith(who)} for line in theirs
        ]
