"""What these seeds can show, in words and numbers."""

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Chapter, Options, Paragraph, Table
from alframe.report.read.section import Section
from alframe.report.statistics.paired import MIN_SEEDS
from alframe.report.statistics.power import Power, power_of


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


def chapter(section: Section, options: Options) -> Chapter | None:
    """What this number of seeds could have shown; None if nothing is compared."""
    if not section.against:
        return None
    title, found = "What these seeds can show", power_of(section.against)
    if not found:
        why = f"Nothing was tested: a test needs {MIN_SEEDS} common seeds and differences that vary between seeds."
        return Chapter(title, (Paragraph(why, "warning"),), folded=True)
    metric = section.metric
    rows = [
        (
            "at the end" if one.where == "end" else "in area",
            str(one.n),
            str(one.n_tests),
            phrases.number(one.sd, metric),
            phrases.number(one.visible, metric),
            " to ".join(phrases.number(edge, metric) for edge in one.interval),
            "–" if one.open_difference is None else phrases.number(one.open_difference, metric),
            "–" if one.open_difference is None else f"{one.open_seeds:,}" if one.open_seeds else "> 1,000",
        )
        for one in found
    ]
    columns = (
        "difference",
        "seeds",
        "tests",
        "sd",
        "visible",
        "95 % interval",
        "largest not significant",
        "seeds needed",
    )
    note = (
        f"{'In points. ' if phrases.is_share(metric) else ''}sd: of the differences paired by seed, pooled over the strategies. Visible: the smallest true "
        "difference that 80 of 100 such studies show at 5 % divided by the number of tests. Strategies with fewer seeds show less; once others "
        "are shown, the correction is milder. Choose the number of seeds before looking at p-values: adding seeds until something is "
        "significant invalidates the 5 %."
    )
    sentences = (Paragraph(statement(one, metric)) for one in found)
    return Chapter(title, (*sentences, Table(columns, tuple(rows), note=note)))


def _more_seeds(seeds: int | None, n: int) -> str:
    return "more than 1,000 seeds" if seeds is None else f"{seeds - n:,} more seed{'' if seeds == n + 1 else 's'}"
