"""What so many seeds can show: the statement, in words and numbers."""

from alframe.report.chapters import phrases
from alframe.report.chapters.blocks import Chapter, Options, Paragraph, Table
from alframe.report.read.section import Section
from alframe.report.statistics.paired import MIN_SEEDS
from alframe.report.statistics.power import Power, power_of


def in_brief(power: Power, section: Section) -> str:
    """What so many seeds can show, in one sentence."""
    single = section.range[0] == section.range[1]
    where = "" if single else " at the end" if power.where == "end" else " in area"
    return (
        f"{phrases.counted(power.n, 'seed')} reliably (in 4 of 5 such studies) show differences of about "
        f"{phrases.size(power.visible, section.metric)} or more{where}; smaller ones can stay hidden."
    )


def statement(power: Power, metric: str) -> str:
    """The power in words: what can stay hidden, how sure that is, and what more seeds would show."""
    where = "at the end" if power.where == "end" else "in area"
    low, high = (phrases.number(edge, metric) for edge in power.interval)
    said = (
        f"With {phrases.counted(power.n, 'seed')} and {phrases.counted(power.n_tests, 'test')}, differences {where} under "
        f"{phrases.size(power.visible, metric)} of {phrases.metric_words(metric)} can stay hidden (80 % power; between {low} and {high}, "
        "as the spread is itself estimated from these seeds)"
    )
    said += f"; {_more(power.finer_seeds, power.n)} would show {phrases.number(power.finer, metric)}."
    if power.open_difference is not None:
        said += (
            f" The largest difference seen that is not shown, {phrases.size(power.open_difference, metric)}, "
            f"would take {_more(power.open_seeds, power.n)}, if it is real."
        )
    return said


def chapter(section: Section, options: Options) -> Chapter | None:
    """What this number of seeds could have shown; nothing where nothing is compared."""
    if not section.against:
        return None
    title, found = "What these seeds can show", power_of(section.against)
    if not found:
        why = f"Nothing was tested: that takes {MIN_SEEDS} common seeds and differences that vary from seed to seed."
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
            "–" if one.open_difference is None else _seeds(one.open_seeds),
        )
        for one in found
    ]
    columns = ("difference", "seeds", "tests", "sd", "visible", "95 % interval", "largest not shown", "seeds it takes")
    note = (
        f"{'In points. ' if phrases.is_share(metric) else ''}sd: of the differences paired by seed, pooled over the strategies. Visible: the smallest true "
        f"difference that is shown in 80 of 100 such studies at 5 % divided by the tests; strategies with fewer seeds show less, and once others are shown "
        "the correction asks for less. Decide on the seeds before looking at p-values: adding seeds until "
        "something is significant makes the 5 % untrue."
    )
    sentences = (Paragraph(statement(one, metric)) for one in found)
    return Chapter(title, (*sentences, Table(columns, tuple(rows), note=note)))


def _more(seeds: int | None, n: int) -> str:
    return "more than 1,000 seeds" if seeds is None else f"{seeds - n:,} more seed{'' if seeds == n + 1 else 's'}"


def _seeds(seeds: int | None) -> str:
    return "> 1,000" if seeds is None else f"{seeds:,}"
