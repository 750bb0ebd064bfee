"""The comparison in TensorBoard: each cell's mean over its seeds with the band around it, margin charts, an HParams table.

One folder per cell, `tensorboard/<comparison>/<cell>/`; the step is the number of labels bought, as in the runs' own boards.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from alframe.record.layout import Layout
from alframe.report.read.section import Section, metrics
from alframe.report.statistics.curves import BOOTSTRAP_SEEDS, Curve, Points, band, common_range, on_grid, thinned

SUFFIX = ".comparison"
MAX_STEPS = 1000  # the page shows no more points of a curve
CATEGORIES = {
    "Test": lambda metric: metric.startswith("test/") and not metric.startswith("test/recall/"),
    "Recall of each class": lambda metric: metric.startswith("test/recall/"),
    "Validation": lambda metric: metric.startswith("validation/"),
    "Seconds": lambda metric: "/" not in metric and metric.endswith("_s"),
}
"""The headings of the Custom Scalars page; other metrics are on the Scalars page only."""


def write(sections: Sequence[Section], out: Path) -> Path:
    """Write `sections` below `out/tensorboard` and return that folder. Files of an earlier call are removed first.

    `metric`, `low/metric` and `high/metric` hold the mean over the seeds and its band: with five or more seeds in every cell
    the 95 % bootstrap interval of the mean, else the lowest and highest seed. `final/...` and `area/...` are means
    over the seeds at the last common label count and over the common range.
    """
    root = Layout(out).tensorboard
    for old in root.rglob(f"events.out.tfevents.*{SUFFIX}"):
        old.unlink()
    curves = [{metric: _curves(section, metric) for metric in metrics(section.runs)} for section in sections]
    rows = _rows(sections)
    names, tags = {one for found in curves for one in found}, {tag for found in curves for tag in _numbers(found)}
    chosen = sections[0].metric
    shared = [_layout(names, chosen), _table(tags, chosen, next(iter(rows.values())))]
    titles = _folders([section.title for section in sections])
    for title, section, by_metric in zip(titles, sections, curves, strict=True):
        bootstrap = min(len(seeds) for seeds in section.cells.values()) >= BOOTSTRAP_SEEDS
        for folder, name in zip(_folders(list(section.cells)), section.cells, strict=True):
            mine = {metric: found[name] for metric, found in by_metric.items() if name in found}
            row = hparams.hparams_pb(rows[section.title, name], trial_id=f"{section.title} {name}")
            _write_cell(root / title / folder, [*shared, row], mine, bootstrap)
    return root


def _curves(section: Section, metric: str) -> dict[str, Curve]:
    """By cell, over the label counts that all runs with the metric share; for the section's metric its own curves."""
    if metric == section.metric:
        return section.curves
    points: Points = {}
    for name, seeds in section.cells.items():
        for seed, run in seeds.items():
            if (measured := run.points(metric))[0]:
                points.setdefault(name, {})[seed] = measured
    if not points:
        return {}
    low, high = common_range(points)
    return on_grid(points, low, high) if low <= high else {}


def _write_cell(folder: Path, shared: Sequence[Summary], curves: Mapping[str, Curve], bootstrap: bool) -> None:
    writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)
    try:
        for summary in shared:
            writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
        for metric, curve in curves.items():
            shown = thinned(curve, MAX_STEPS)
            low, high = band(shown.values, bootstrap)
            for tag, values in ((metric, shown.mean), (f"low/{metric}", low), (f"high/{metric}", high)):
                for labels, value in zip(shown.labels, values, strict=True):
                    writer.add_event(_scalar(tag, float(value), round(labels)))
        last = round(max((curve.labels[-1] for curve in curves.values()), default=0))
        for tag, value in _numbers({metric: {"": curve} for metric, curve in curves.items()}).items():
            writer.add_event(_scalar(tag, value, last))
    finally:
        writer.close()


def _scalar(tag: str, value: float, step: int) -> Event:
    return Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def _numbers(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, float]:
    """The final and the area of every test metric; of several cells, the last one's."""
    return {
        f"{what}/{metric.removeprefix('test/')}": float(values.mean())
        for metric, found in curves.items()
        if metric.startswith("test/")
        for curve in found.values()
        for what, values in (("final", curve.finals), ("area", curve.areas))
    }


def _layout(names: set[str], chosen: str) -> Summary:
    """A margin chart for each metric, the `chosen` one first: the mean as a line, its band shaded."""
    categories = []
    for title, belongs in CATEGORIES.items():
        shown = sorted(filter(belongs, names), key=lambda metric: (metric != chosen, metric))
        content, series = layout_pb2.MarginChartContent, layout_pb2.MarginChartContent.Series
        lines = {one: series(value=one, lower=f"low/{one}", upper=f"high/{one}") for one in reversed(shown)}
        # the page shows the last one first
        charts = [layout_pb2.Chart(title=one, margin=content(series=[line])) for one, line in lines.items()]
        if charts:
            categories.append(layout_pb2.Category(title=title, chart=charts, closed=title != "Test"))
    text = layout_pb2.Layout(category=categories).SerializeToString()
    # by hand: custom_scalar.summary would import tensorflow for it
    tensor = TensorProto(dtype=DT_STRING, string_val=[text], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=metadata.create_summary_metadata(), tensor=tensor)
    return Summary(value=[value])


def _table(tags: set[str], chosen: str, row: Mapping[str, str | int]) -> Summary:
    """The columns of the HParams page: those of a `row`, then the numbers, of the `chosen` metric first."""
    ends = f"/{chosen.removeprefix('test/')}"
    order = sorted(tags, key=lambda tag: (not tag.endswith(ends), tag.split("/", 1)[1], tag.startswith("area/")))
    return hparams.hparams_config_pb(
        hparams=[hparams.HParam(column) for column in row], metrics=[hparams.Metric(tag) for tag in order]
    )


def _rows(sections: Sequence[Section]) -> dict[tuple[str, str], dict[str, str | int]]:
    """By comparison and cell its row of the HParams page: strategy, seeds, and the other choices that vary."""
    values: dict[tuple[str, str], dict[str, str | int]] = {}
    for section in sections:
        for name, seeds in section.cells.items():
            choices = next(iter(seeds.values())).choices
            values[section.title, name] = {**choices, "comparison": section.title, "seeds": len(seeds)}
    columns = list(next(iter(values.values())))
    varying = [column for column in columns if len({row[column] for row in values.values()}) > 1]
    shown = [column for column in columns if column in ("strategy", "seeds", *varying)]
    return {key: {column: row[column] for column in shown} for key, row in values.items()}


def _folders(names: Sequence[str]) -> Iterator[str]:
    """Each name as a folder name, short enough for a file system; equal ones are numbered."""
    seen: dict[str, int] = {}
    for name in names:
        plain = re.sub(r"[^\w.,=+() -]+", "-", name).strip(" .")[:100] or "cell"
        seen[plain] = seen.get(plain, 0) + 1
        yield plain if seen[plain] == 1 else f"{plain} {seen[plain]}"
