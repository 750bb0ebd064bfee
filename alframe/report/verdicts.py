"""Whether each strategy beat its baseline: a sentence, and the tests behind it."""

from alframe.report import phrases
from alframe.report.blocks import Chapter, Options, Paragraph, Table
from alframe.report.budgets import mean_and_interval
from alframe.report.curves import Against
from alframe.report.power import Power, power_of
from alframe.report.statistics import MIN_SEEDS, Difference
from alframe.report.summary import Section
from alframe.report.targets import saved, target_of


def verdict_sentences(section: Section, options: Options | None = None) -> list[Paragraph]:
    """One sentence or two for each strategy that is compared: better, worse or cannot tell, and the numbers why."""
    if section.has_all and not section.against:
        told = "; ".join(f"{name} {mean_and_interval(curve.finals)}" for name, curve in section.curves.items())
        reference = f"Everything labelled ({section.range[1]:,} labels), {phrases.metric_words(section.metric)}: {told}. A reference, not a comparison."
        return [Paragraph(reference)]
    if not section.against:
        why = "no baseline" if len(section.curves) > 1 else "there is one strategy only"
        return [Paragraph(f"Nothing can be said of better or worse: {why}.", "warning")]
    options = options or Options()
    powers = {power.where: power for power in power_of(section.against)}
    return [_sentence(section, name, one, options, powers) for name, one in section.against.items()]


def tone_of(verdict: str) -> str:
    """good, bad, warning (one at the end, the other in area) or nothing."""
    if "better" in verdict and "worse" in verdict:
        return "warning"
    return "good" if verdict.startswith("better") else "bad" if verdict.startswith("worse") else ""


def chapter(section: Section, options: Options) -> Chapter | None:
    """The paired differences with interval, effect size, test and p, at the end and in area; nothing without a baseline."""
    if not section.against:
        return None
    single = section.range[0] == section.range[1]
    rows, tones = [], []
    for name, one in section.against.items():
        for where, test in (("end", one.final), *(() if single else (("area", one.area),))):
            rows.append((name, one.baseline, where, *difference_cells(test, section.metric)))
            won = (test.mean < 0) == section.lower_is_better
            tones.append("" if not test.is_shown else "good" if won else "bad")
    unit = "points" if phrases.is_share(section.metric) else phrases.metric_words(section.metric)
    columns = (
        "strategy",
        "against",
        "where",
        "seeds",
        f"difference ({unit})",
        "95 % interval",
        "effect",
        "test",
        "p",
        "p (Holm)",
    )
    note = (
        "Differences are paired by seed, strategy − baseline. The interval is a t-interval of the mean difference by itself, the effect Hedges' g of paired differences "
        "(mean / sd, corrected for few seeds). p is two-sided; p (Holm) is corrected for all tests of this table, and decides at 5 %. So an interval may leave out 0 "
        f"where the corrected p shows nothing. Under {MIN_SEEDS} common seeds, or with the same difference in all, nothing is tested."
    )
    return Chapter("Differences from the baseline", (Table(columns, tuple(rows), note=note, tones=tuple(tones)),))


def difference_cells(test: Difference, metric: str) -> tuple[str, ...]:
    """seeds, difference, interval, effect, test, p, corrected p."""
    return (
        str(test.n),
        phrases.number(test.mean, metric, sign=True),
        phrases.span(test.interval, metric),
        "–" if test.effect is None else f"{test.effect:+.2f}".replace("-", "−"),
        test.test if test.p_holm is not None else "–",
        phrases.p_value(test.p if test.p_holm is not None else None),
        phrases.p_value(test.p_holm),
    )


def _sentence(section: Section, name: str, one: Against, options: Options, powers: dict[str, Power]) -> Paragraph:
    verdict, tone, baseline = one.verdict, tone_of(one.verdict), one.baseline
    metric = phrases.metric_words(section.metric)
    if one.final.n < MIN_SEEDS:
        told = f"{name}: cannot tell. It has {phrases.counted(one.final.n, 'seed')} in common with {baseline}, and a test needs {MIN_SEEDS}."
        return Paragraph(told, "warning")
    end = f"at {section.range[1]:,} labels its {metric} is {_away(one.final, section)}"
    mean = f"on average over all label counts {_away(one.area, section)}"
    single = section.range[0] == section.range[1]
    if one.final.p is None and one.area.p is None:
        same = f"{name}: cannot tell. {end[0].upper()}{end[1:]} in every seed, and without spread there is nothing to test."
        return Paragraph(same, "warning")
    if not tone:
        told = f"{name}: cannot tell whether it is better or worse than {baseline}. {end[0].upper()}{end[1:]}"
        told += ", which could be chance" if single else f"; {mean}. Both could be chance"
        where = "end" if "end" in powers else "area"
        if where in powers:
            visible = powers[where].visible_to(one.final.n)
            told += (
                f": {phrases.counted(one.final.n, 'seed')} show differences of about {phrases.size(visible, section.metric)}"
                f"{' at the end' if where == 'end' and not single else ''} and more"
            )
        return Paragraph(f"{told}.")
    places = [test for test in (one.final, one.area) if test.is_shown]
    because = " and ".join(end if test is one.final else mean for test in places)
    said = f"{name} is {_judged(verdict)} {baseline}: {because}."
    return Paragraph(said + _labels(section, name, options), tone)


def _judged(verdict: str) -> str:
    """`better than`, `worse than`, or the mixed verdict itself."""
    return f"{verdict.split()[0]} than" if tone_of(verdict) in ("good", "bad") else f"{verdict}, compared with"


def _away(test: Difference, section: Section) -> str:
    """`2.3 points higher (95 % interval +1.1 to +3.5, p 0.004, 5 seeds)`."""
    if test.n == 0:
        return "not known (no common seed)"
    facts = [f"95 % interval {phrases.span(test.interval, section.metric)}"] if test.interval else []
    facts += [f"p {phrases.p_value(test.p_holm)}"] if test.p_holm is not None else []
    facts += [phrases.counted(test.n, "seed")]
    direction = "higher" if test.mean >= 0 else "lower"
    if section.lower_is_better:
        direction += ", which is " + ("worse" if test.mean >= 0 else "better")
    return f"{phrases.size(test.mean, section.metric)} {direction} ({', '.join(facts)})"


def _labels(section: Section, name: str, options: Options) -> str:
    """What the mean curves say of labels, in one sentence; nothing where they do not cross the target."""
    target, baseline = target_of(section, options, name), section.baselines[name]
    if target is None or section.range[0] == section.range[1]:
        return ""
    found = saved(section.curves[name], section.curves[baseline], target.value, section.lower_is_better)
    by_seed = found.is_known
    labels, share = (found.low, found.share) if by_seed else (found.of_means, found.of_means_share)
    if labels is None or share is None:
        return ""
    interval = ""
    if by_seed and found.interval is not None:
        edges = " to ".join(f"{edge:,.0f}".replace("-", "−") for edge in found.interval)
        interval = f", 95 % interval {edges}, {phrases.counted(found.n, 'seed')}"
    kind = "" if by_seed else " by the mean curves, as not every seed reaches it"
    less = "fewer" if labels >= 0 else "more"
    return (
        f" For {phrases.value(target.value)} ({target.source}) it needs {abs(labels):,.0f} labels {less} than {baseline} "
        f"({abs(100 * share):.0f} %{interval}){kind}."
    )
