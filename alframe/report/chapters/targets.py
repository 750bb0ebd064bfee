"""Labels needed to reach a target, and so the labels saved against the baseline."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Chapter, Options, Paragraph, Table
from alframe.report.read.section import Section
from alframe.report.statistics.targets import Saved, labels_needed, saved

SAVED = ("saved", "95 % interval", "saved by the mean curve")


@dataclass(frozen=True)
class Target:
    """A value of the metric, and where it comes from."""

    value: float
    source: str


def target_of(section: Section, options: Options, name: str) -> Target | None:
    """The target of cell `name`: as requested, a share of the full-data value, or the mean final value of its baseline."""
    if options.target is not None:
        return Target(options.target, "as requested")
    if section.full_data is not None:
        share = options.full_data_share
        value = section.full_data / share if section.lower_is_better else section.full_data * share
        part = f"{100 * share:g} % of" if not section.lower_is_better else f"1/{share:g} of"
        return Target(value, f"{part} the {phrases.value(section.full_data)} with all labels")
    baseline = section.baselines.get(name, name if name in section.baselines.values() else None)
    if baseline is None:
        return None
    final = float(section.curves[baseline].mean[-1])
    return Target(final, f"the mean of {baseline} at the end")


def chapter(section: Section, options: Options) -> Chapter | None:
    """Labels to the target and labels saved, one row per strategy; None at a single label count."""
    title = "Labels needed for a target"
    if section.range[0] == section.range[1]:
        return None
    targets = {name: target_of(section, options, name) for name in section.curves}
    known = {name: target for name, target in targets.items() if target is not None}
    if not known:
        why = "No target: there is no baseline to take one from, and --target was not set."
        return Chapter(title, (Paragraph(why, "warning"),), folded=True)
    rows = []
    for name, target in known.items():
        curve = section.curves[name]
        needed = labels_needed(curve.labels, curve.values, target.value, section.lower_is_better)
        found = None
        if name in section.baselines:
            found = saved(curve, section.curves[section.baselines[name]], target.value, section.lower_is_better)
        rows.append(
            {
                "strategy": name,
                "target": phrases.value(target.value),
                "reached by": f"{np.isfinite(needed[:, 1]).sum()} of {len(needed)}",
                "labels (median)": _median(needed),
                **dict(zip(SAVED, _saved_cells(found) if found else ("", "", ""), strict=True)),
            }
        )
    sources = list(dict.fromkeys(f"{phrases.value(t.value)} ({t.source})" for t in known.values()))
    intro = f"Target: {phrases.metric_words(section.metric)} of {'; '.join(sources)}."
    note = (
        "Labels at which the curve first reaches the target, interpolated linearly; initial labels count. Saved: labels fewer than the baseline "
        "needs, paired, mean over the common seeds. If a seed never reaches the target, only a bound is known, or nothing. "
        "The mean curve hides the spread between seeds."
    )
    return Chapter(
        title, (Paragraph(intro), Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), note=note))
    )


def _median(needed: Float[np.ndarray, "s 2"]) -> str:
    """The median over the seeds, as exactly as it is known; seeds that never reach the target count as above all others."""
    order = np.sort(needed, axis=0)
    low, high = (float(np.median(order[:, i])) for i in (0, 1))
    if low == high:
        return f"{low:,.0f}"
    return f"> {low:,.0f}" if np.isinf(high) else f"≤ {high:,.0f}"


def _saved_cells(found: Saved) -> tuple[str, str, str]:
    means = "–" if found.of_means is None else f"{_signed(found.of_means)} ({_percent(found.of_means_share)})"
    if found.is_known:
        interval = "–" if found.interval is None else " to ".join(_signed(edge) for edge in found.interval)
        return f"{_signed(found.low)} ({_percent(found.share)})", interval, means
    low, high = (_signed(edge) if np.isfinite(edge) else "" for edge in (found.low, found.high))
    both = f"at least {low}" if low else f"at most {high}" if high else "unknown"
    return f"{low} to {high}" if low and high else both, "–", means


def _signed(labels: float) -> str:
    return f"{round(labels):+,}".replace("-", "−") if round(labels) else "0"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{round(100 * share):+d} %".replace("-", "−").replace("+0 %", "0 %")
