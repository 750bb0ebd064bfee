"""Whether each strategy beat its baseline: a sentence, the tests behind it, and what these seeds can show."""

import math

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Chapter, Options, Paragraph, Table
from alframe.report.chapters.results import mean_and_interval
from alframe.report.chapters.targets import Target, target_of
from alframe.report.read.section import Section
from alframe.report.statistics.curves import Against
from alframe.report.statistics.paired import MIN_SEEDS, Difference
from alframe.report.statistics.power import Power, power_of
from alframe.report.statistics.targets import Saved, saved

TONES = ("good", "warning", "bad", "")
"""The order in which verdicts are reported."""


def headline(section: Section, options: Options) -> Paragraph | None:
    """Did it pay off? In one sentence; None if nothing is compared."""
    if not section.against:
        return None
    better, mixed, worse = (
        [n for n, one in section.against.items() if phrases.tone_of(one.verdict) == t] for t in TONES[:3]
    )
    n, baseline = len(section.against), _baseline_words(section)
    if better:
        answer, tone = _best(section, better, options), "good"
    elif mixed:
        answer = f"It depends: {mixed[0]} is {section.against[mixed[0]].verdict}, compared with {baseline}."
        tone = "warning"
    elif worse:
        one_by_one = f"{_listed(worse)} {'is' if len(worse) == 1 else 'are'} worse than {baseline}."
        answer = f"None of {n} strategies is shown to be better, and {one_by_one}" if n > 1 else f"No: {one_by_one}"
        tone = "bad"
    elif all(one.final.p_holm is None and one.area.p_holm is None for one in section.against.values()):
        why = f"a test needs {MIN_SEEDS} common seeds and differences that vary between seeds."
        answer, tone = f"Inconclusive: {why}", "warning"
    else:
        none = f"none of {n} strategies is" if n > 1 else f"{next(iter(section.against))} is not"
        answer, tone = f"Inconclusive: {none} shown to differ from {baseline}.", "warning"
    return Paragraph(f"Did it pay off? {answer}", tone, big=True)


def verdict_sentences(section: Section, options: Options | None = None) -> list[Paragraph]:
    """One sentence or two for each strategy that is compared: better, worse or inconclusive, in this order, with the numbers behind it."""
    if section.fully_labelled and not section.against:
        values = "; ".join(f"{name} {mean_and_interval(curve.finals)}" for name, curve in section.curves.items())
        reference = f"Everything labelled ({section.range[1]:,} labels), {phrases.metric_words(section.metric)}: {values}. A reference, not a comparison."
        return [Paragraph(reference)]
    if not section.against:
        why = "no baseline" if len(section.curves) > 1 else "there is only one strategy"
        return [Paragraph(f"Nothing to compare: {why}.", "warning")]
    ranked = sorted(section.against.items(), key=lambda item: TONES.index(phrases.tone_of(item[1].verdict)))
    sentences = [_sentence(section, name, one, options or Options()) for name, one in ranked]
    powers = power_of(section.against)
    if powers and any(not paragraph.tone for paragraph in sentences):
        sentences.append(Paragraph(in_brief(powers[0], section)))
    return sentences


def chapter(section: Section, options: Options) -> Chapter | None:
    """The paired differences with interval, effect size, test and p, at the end and in area; None without a baseline."""
    if not section.against:
        return None
    single = section.range[0] == section.range[1]
    several = len(set(section.baselines.values())) > 1
    rows, tones = [], []
    for name, one in section.against.items():
        for where, test in (("end", one.final), *(() if single else (("area", one.area),))):
            rows.append((name, *([one.baseline] if several else []), where, *difference_cells(test, section.metric)))
            won = (test.mean < 0) == section.lower_is_better
            tones.append("" if not test.is_shown else "good" if won else "bad")
    named = ("strategy", "against", "where") if several else ("strategy", "where")
    columns = (*named, *difference_columns("difference", section.metric))
    note = (
        "Differences are paired by seed, strategy − baseline. The interval is an uncorrected t-interval of the mean difference. The effect is Hedges' g "
        "of paired differences (mean / sd, corrected for few seeds). p is two-sided; p (Holm) is corrected for all tests of this table and decides at 5 %. "
        "So an interval may exclude 0 while the corrected p is not significant. "
        f"With fewer than {MIN_SEEDS} common seeds, or the same difference in all of them, nothing is tested."
    )
    title = f"Differences from {'the baseline' if several else _baseline_words(section)}"
    return Chapter(title, (Table(columns, tuple(rows), note=note, tones=tuple(tones)),))


def difference_columns(what: str, metric: str) -> tuple[str, ...]:
    """The heads of `difference_cells`; `what` is subtracted."""
    unit = "points" if phrases.is_share(metric) else phrases.metric_words(metric)
    return (f"{what} ({unit})", "95 % interval", "p (Holm)", "p", "effect", "test", "seeds")


def difference_cells(test: Difference, metric: str) -> tuple[str, ...]:
    """Difference, interval, corrected p, p, effect, test, seeds."""
    tested = test.p_holm is not None
    return (
        phrases.number(test.mean, metric, sign=True),
        phrases.span(test.interval, metric),
        phrases.p_value(test.p_holm),
        phrases.p_value(test.p if tested else None),
        "–" if test.effect is None else f"{test.effect:+.2f}".replace("-", "−"),
        test.test if tested else "–",
        str(test.n),
    )


def _best(section: Section, better: list[str], options: Options) -> str:
    """The best of those that are `better`, by its area: its value and the baseline's, and the labels it saves."""
    sign = -1 if section.lower_is_better else 1
    best = max(better, key=lambda name: sign * section.against[name].area.mean)
    one, metric = section.against[best], phrases.metric_words(section.metric)
    mine, theirs = section.curves[best], section.curves[one.baseline]
    if one.final.is_shown and sign * one.final.mean > 0:
        where, values = f"at {section.range[1]:,} labels", (mine.finals, theirs.finals)
    else:
        where = f"on average over {section.range[0]:,} to {section.range[1]:,} labels"
        values = (mine.areas, theirs.areas)
    own, other = (phrases.value(float(found.mean())) for found in values)
    text = f"Yes, with {best}: {metric} {own} {where}, against {other} for {one.baseline}"
    if (saving := _saving(section, best, options)) and saving[2] > 0:
        target, _, labels, share = saving
        text += (
            f"; it reaches {phrases.value(target.value)} with about {labels:,.0f} fewer labels ({100 * share:.0f} %)"
        )
    others = [name for name in better if name != best]
    return f"{text}." + (f" {_listed(others)} {'is' if len(others) == 1 else 'are'} also better." if others else "")


def _sentence(section: Section, name: str, one: Against, options: Options) -> Paragraph:
    verdict, tone, baseline = one.verdict, phrases.tone_of(one.verdict), one.baseline
    if one.final.n < MIN_SEEDS:
        few = f"{name}: inconclusive. It has {phrases.counted(one.final.n, 'seed')} in common with {baseline}, and a test needs {MIN_SEEDS}."
        return Paragraph(few, "warning")
    metric, single = phrases.metric_words(section.metric), section.range[0] == section.range[1]
    end = f"at {section.range[1]:,} labels its {metric} is {_difference(one.final, section)}"
    mean = f"on average over all label counts {_difference(one.area, section)}"
    if one.final.p is None and one.area.p is None:
        same = f"{name}: inconclusive. {end[0].upper()}{end[1:]} in every seed, and without spread there is nothing to test."
        return Paragraph(same, "warning")
    if not tone:
        both = "; this could be chance" if single else f", {mean}; both could be chance"
        return Paragraph(f"{name}: inconclusive. {end[0].upper()}{end[1:]}{both}.")
    relation = f"{verdict}, compared with" if tone == "warning" else f"{verdict.split()[0]} than"
    places = [test for test in (one.final, one.area) if test.is_shown]
    because = " and ".join(end if test is one.final else mean for test in places)
    text = f"{name} is {relation} {baseline}: {because}."
    return Paragraph(text + _labels_saved(section, name, options), tone)


def _difference(test: Difference, section: Section) -> str:
    """`2.3 points higher (95 % interval +1.1 to +3.5, p 0.004)`; p only where it decides."""
    if test.n == 0:
        return "unknown (no common seed)"
    facts = [f"95 % interval {phrases.span(test.interval, section.metric)}"] if test.interval else []
    facts += [f"p {phrases.p_value(test.p_holm)}"] if test.is_shown else []
    direction = "higher" if test.mean >= 0 else "lower"
    if section.lower_is_better:
        direction += ", which is " + ("worse" if test.mean >= 0 else "better")
    return f"{phrases.size(test.mean, section.metric)} {direction}" + (f" ({', '.join(facts)})" if facts else "")


def _saving(section: Section, name: str, options: Options) -> tuple[Target, Saved, float, float] | None:
    """The target, and the labels and the share saved for it, above 0: fewer than the baseline needs. By seed if every seed
    reaches it, else by the mean curves. None without a target, or if the curves do not cross it.
    """
    target, baseline = target_of(section, options, name), section.baselines[name]
    if target is None or section.range[0] == section.range[1]:
        return None
    found = saved(section.curves[name], section.curves[baseline], target.value, section.lower_is_better)
    labels, share = (found.low, found.share) if found.is_known else (found.of_means, found.of_means_share)
    return None if labels is None or share is None else (target, found, labels, share)


def _labels_saved(section: Section, name: str, options: Options) -> str:
    """Labels saved or lost, in one sentence; empty if unknown."""
    saving = _saving(section, name, options)
    if saving is None:
        return ""
    target, found, labels, share = saving
    interval, kind = "", "" if found.is_known else ", by the mean curves, because not every seed reaches it"
    if found.is_known and found.interval is not None:
        edges = " to ".join(f"{edge:,.0f}".replace("-", "−") for edge in found.interval)
        interval = f", 95 % interval {edges}"
    less = "fewer" if labels >= 0 else "more"
    return (
        f" To reach {phrases.value(target.value)} ({target.source}) it needs {abs(labels):,.0f} {less} labels "
        f"than {section.baselines[name]} ({abs(100 * share):.0f} %{interval}){kind}."
    )


def _baseline_words(section: Section) -> str:
    names = set(section.baselines.values())
    return names.pop() if len(names) == 1 else "its baseline"


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def in_brief(power: Power, section: Section) -> str:
    """The power in one sentence."""
    single = section.range[0] == section.range[1]
    where = "" if single else " at the end" if power.where == "end" else " in area"
    return (
        f"{phrases.counted(power.n, 'seed')} show differences of about {phrases.size(power.visible, section.metric)} or more{where} "
        "in 4 of 5 such studies; smaller ones can stay hidden."
    )


def statement(power: Power, metric: str) -> str:
    """The power in words: what can stay hidden, how certain that is, and what more seeds would show."""
    where = "at the end" if power.where == "end" else "in area"
    low, high = (phrases.number(edge, metric) for edge in power.interval)
    text = (
        f"With {phrases.counted(power.n, 'seed')} and {phrases.counted(power.n_tests, 'test')}, differences {where} under "
        f"{phrases.size(power.visible, metric)} of {phrases.metric_words(metric)} can stay hidden (80 % power). The spread is itself "
        f"estimated from these seeds, so the bound lies between {low} and {high}. "
        f"Showing {phrases.number(power.finer, metric)} would need {_more_seeds(power.finer_seeds, power.n)}."
    )
    if power.open_difference is not None:
        text += (
            f" The largest difference that is not significant, {phrases.size(power.open_difference, metric)}, "
            f"would need {_more_seeds(power.open_seeds, power.n)}, if it is real."
        )
    return text


def power(section: Section, options: Options) -> Chapter | None:
    """What this number of seeds could have shown; None if nothing is compared."""
    if not section.against:
        return None
    title, found = "What these seeds can show", power_of(section.against)
    if not found:
        why = f"Nothing was tested: a test needs {MIN_SEEDS} common seeds and differences that vary between seeds."
        return Chapter(title, (Paragraph(why, "warning"),), folded=True)
    metric = section.metric
    rows = [
        {
            "difference": "at the end" if one.where == "end" else "in area",
            "seeds": str(one.n),
            "tests": str(one.n_tests),
            "sd": phrases.number(one.sd, metric),
            "visible": phrases.number(one.visible, metric),
            "95 % interval": " to ".join(phrases.number(edge, metric) for edge in one.interval),
            "largest not significant": phrases.number(math.nan if (d := one.open_difference) is None else d, metric),
            "seeds needed": "–" if d is None else f"{one.open_seeds:,}" if one.open_seeds else "> 1,000",
        }
        for one in found
    ]
    note = (
        f"{'In points. ' if phrases.is_share(metric) else ''}sd: of the differences paired by seed, pooled over the strategies. Visible: the smallest true "
        "difference that 80 of 100 such studies show at 5 % divided by the number of tests. Strategies with fewer seeds show less; once others "
        "are shown, the correction is milder. Choose the number of seeds before looking at p-values: adding seeds until something is "
        "significant invalidates the 5 %."
    )
    sentences = (Paragraph(statement(one, metric)) for one in found)
    return Chapter(title, (*sentences, Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), note=note)))


def _more_seeds(seeds: int | None, n: int) -> str:
    return "more than 1,000 seeds" if seeds is None else f"{seeds - n:,} more seed{'' if seeds == n + 1 else 's'}"
