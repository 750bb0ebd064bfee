"""The layout of a run folder: the one place that defines its file names.

config.yaml        everything that can change a result, and the format of the folder
provenance.json    the data, and for each launch: versions, command, device
ledger.jsonl       one line per answer
rounds.jsonl       one line per committed round
queries/           what was asked and measured, stored before anyone answers; contact sheets, and those of the evidence
checkpoint/        weights of the last two rounds, if they are kept
tensorboard/       events
profile/           where the time went, with run.profile=true
failed.json        why the run failed, until it resumes
pool.jsonl, pool.bin   for a growing pool: the arrivals, and the pixels
<annotator>/       an annotator's own files, such as queue/
"""

from pathlib import Path

FORMAT = 2
"""Written into config.yaml as `format`; raise it when older readers would misread a folder. Without a number it is 1."""
CONFIG, PROVENANCE, LEDGER, ROUNDS = "config.yaml", "provenance.json", "ledger.jsonl", "rounds.jsonl"
HISTORY, PIXELS = "pool.jsonl", "pool.bin"
STAGES, STAGES_FIGURE, OPERATORS, TRACE = "stages.json", "stages.png", "operators.txt", "trace.json.gz"


def round_name(round: int) -> str:
    """The name of a round in file names: `round_003`."""
    return f"round_{round:03d}"


class Layout:
    """The paths of the run in `root`. Nothing is read or created."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config, self.provenance = root / CONFIG, root / PROVENANCE
        self.ledger, self.rounds = root / LEDGER, root / ROUNDS
        self.history, self.pixels = root / HISTORY, root / PIXELS
        self.queries, self.tensorboard, self.profile = root / "queries", root / "tensorboard", root / "profile"
        self.export = root / "export"  # the default folder of an export
        self.failed = root / "failed.json"
        self.lock = root / ".lock"
        self.discarding = root / ".discarding"  # exists while run.overwrite deletes the folder's content

    def planned(self, round: int | None) -> Path:
        """The stored query of a round; None: the initial purchase."""
        return self.queries / f"{'initial' if round is None else round_name(round)}.json"

    def contact_sheet(self, round: int) -> Path:
        return self.queries / f"{round_name(round)}.jpg"

    def evidence_sheet(self, round: int) -> Path:
        return self.queries / f"{round_name(round)}_evidence.jpg"

    def checkpoint(self, round: int) -> Path:
        return self.root / "checkpoint" / f"{round_name(round)}.safetensors"

    def place(self, annotator: str) -> Path:
        """The folder of an annotator's own files."""
        return self.root / annotator

    def places(self) -> list[Path]:
        """The subfolders that belong to annotators: all but the record's own."""
        own = {self.queries, self.checkpoint(0).parent, self.tensorboard, self.profile, self.export}
        return sorted(path for path in self.root.iterdir() if path.is_dir() and path not in own)


def runs_below(folder: Path) -> list[Path]:
    """The runs in the folder of a cell, or else of a study, sorted by name."""
    for depth in ("*", "*/*"):
        if found := sorted(path.parent for path in folder.glob(f"{depth}/{CONFIG}")):
            return found
    return []
