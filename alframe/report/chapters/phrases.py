"""Numbers and verdicts in the report's words: shares in points, p-values, intervals. Never prints `nan`."""

import math

BETWEEN_0_AND_1 = ("accuracy", "auroc", "auprc", "ece", "recall", "precision", "f1", "rate")
ACRONYMS = {"auroc", "auprc", "nll", "ece"}


def metric_words(metric: str) -> str:
    """`test/auroc` as `AUROC`, `test/recall/defective` as `recall of defective`, `validation/nll` as `validation NLL`."""
    parts, of_class = metric.split("/"), ""
    if "recall" in parts[:-1]:
        of = parts.index("recall")
        parts, of_class = parts[: of + 1], f" of {'/'.join(parts[of + 1 :])}"  # a class's name stays as it is
    words = [part.upper() if part in ACRONYMS else part.replace("_", " ") for part in parts]
    return " ".join(words[1:] if len(words) > 1 and words[0] == "test" else words) + of_class


def tone_of(verdict: str) -> str:
    """good, bad, warning (better at one place and worse at the other) or empty."""
    if "better" in verdict and "worse" in verdict:
        return "warning"
    return "good" if verdict.startswith("better") else "bad" if verdict.startswith("worse") else ""


def is_share(metric: str) -> bool:
    """Whether the metric lies in [0, 1], so that its differences are given in points (hundredths)."""
    return any(word in part.split("_") for part in metric.split("/")[:3] for word in BETWEEN_0_AND_1)


def size(difference: float, metric: str) -> str:
    """The size of a difference without its sign: `2.3 points`, or `0.123` in the metric's own unit."""
    return f"{number(abs(difference), metric)}{' points' if is_share(metric) else ''}"


def number(difference: float, metric: str, sign: bool = False) -> str:
    """A difference in points (shares) or in the metric's own unit, with one more digit where it is small."""
    if math.isnan(difference):
        return "–"
    shown = 100 * difference if is_share(metric) else difference
    digits = 1 if is_share(metric) else 3
    if 0 < abs(shown) < 10**-digits:
        digits += 1
    text = f"{shown:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−")


def value(level: float) -> str:
    """A value of the metric itself, to three places."""
    return "–" if math.isnan(level) else f"{level:.3f}".replace("-", "−")


def span(interval: tuple[float, float] | None, metric: str) -> str:
    """`−1.1 to +3.5`; a dash where there is none."""
    return "–" if interval is None else " to ".join(number(edge, metric, sign=True) for edge in interval)


def p_value(p: float | None) -> str:
    """`0.031`, `< 0.001`, or a dash where nothing was tested."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def counted(n: int, what: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
