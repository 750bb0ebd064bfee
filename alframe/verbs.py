"""The verbs of the `alframe` command, one line each, read before any heavy import."""

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
