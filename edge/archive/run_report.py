"""The page of a run: counts over time, events, and each changed cell from then on.

Made from the archive alone, on the lab server or anywhere the file can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from rich.table import Table

from edge.archive.run_history import CellHistory, RunHistory, RunSpan
from edge.rendering.annotation import legend
from edge.rendering.plain_text import plain
from edge.rendering.plots import (
    INK,
    PAGE_PX,
    PAPER,
    RULE,
    Axes,
    Colour,
    Image,
    png,
    resized,
)
from edge.rendering.report_blocks import (
    Block,
    Heading,
    Paragraph,
    Picture,
    TextTable,
    write_pages,
)
from edge.schema.results import Event, Filmstrip

_CHANGE_COLOURS = (
    (190, 190, 190),
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (230, 159, 0),
)
_TILE_PX = PAGE_PX // 12
_RIBBON_PX, _LEGEND_PX = 36, 26
_MAX_EVENTS = 200
_NAMES_PER_ROW = 5


def write_run_page(folder: Path, story: RunHistory) -> Path:
    """Write `report.html`, and `report.md` with its figures; return the former."""
    start = story.span.start
    title = f"Run {start.run}" + (f", slide {start.slide}" if start.slide else "")
    return write_pages(folder, title, list(_blocks(story)))


def runs_table(spans: Sequence[RunSpan]) -> Table:
    """List runs for a terminal."""
    grid = Table(title=f"{len(spans)} runs", title_justify="left")
    for column in ("run", "device", "slide", "operator", "start (UTC)", "end"):
        grid.add_column(column, no_wrap=column in ("run", "slide"))
    for span in spans:
        start, end = span.start, "ended" if span.is_ended else "not ended"
        rows = f"{end}, {span.last - span.first + 1} rows"
        who = (plain(start.slide or ""), plain(start.operator or ""))
        grid.add_row(start.run, span.chain.device, *who, _time_text(span.utc), rows)
    return grid


def _blocks(story: RunHistory) -> Iterator[Block]:
    yield TextTable(("", ""), _facts(story))
    yield from _differential_blocks(story)
    if story.counts:
        yield Heading("Counts over time")
        yield Picture(
            "counts",
            png(_draw_counts(story)),
            "Cells per frame over time",
            "Mean number of cells per examined frame; a line breaks where nothing was "
            "examined.",
        )
    yield from _event_blocks(story)
    if story.courses:
        yield Heading("What changed, cell by cell")
        words = (
            "Each row: the cell over time, numbers are those of the frames; below, the "
            "probability of each class as the height of its colour, from the first to "
            "the last frame in which it was followed. A line marks the onset."
        )
        yield Picture("classes", png(_draw_legend(story.classes)), "Classes", words)
        for track, course in story.courses.items():
            yield _draw_cell(story, track, course)
        left = len({e.track_id for e in story.events.values()}) - len(story.courses)
        if left > 0:
            yield Paragraph(f"{left} more cells changed and are not drawn.")
    if story.incidents:
        yield Heading("Gaps, alarms, notes and commands")
        told = [(_time_text(at), text) for at, text in story.incidents]
        yield TextTable(("time (UTC)", "what"), told)
        if story.more_incidents:
            yield Paragraph(f"{story.more_incidents} more are in the archive.")


def _facts(story: RunHistory) -> list[tuple[str, str]]:
    span, last, rows = story.span, story.last, story.statuses
    is_over = "ended" if span.is_ended else "not ended"
    facts = [
        ("device", span.chain.device),
        ("operator", span.start.operator or "not said"),
        ("start (UTC)", _time_text(span.utc)),
        ("last row (UTC)", f"{_time_text(story.until)}, {is_over}"),
        ("rows", f"{span.first} to {span.last} of ledger {span.chain.epoch}"),
        *((f"frames {name}", str(rows[name])) for name in ("ok", "degraded")),
        *((f"rows {name}", str(rows[name])) for name in ("rejected", "gap")),
    ]
    if story.unread:
        facts.append(("rows unread", f"{story.unread}, of another version"))
    if last is not None:
        following = last.following
        facts += [
            ("model", last.model or "none"),
            ("locator", last.locator or "none"),
            ("sequence model", (following and following.model) or "none"),
            ("calibration", last.calibration_id or "none"),
            ("software", last.software),
        ]
    return facts


def _differential_blocks(story: RunHistory) -> Iterator[Block]:
    differential = None if story.last is None else story.last.differential
    if differential is None or not differential.total:
        return
    yield Heading("Differential")
    yield TextTable(
        ("class", "counted", "share", "95 % limits"),
        [
            (
                one.label,
                str(one.count),
                f"{100 * one.exact.share:.1f} %",
                f"{100 * one.exact.low:.1f} to {100 * one.exact.high:.1f} %",
            )
            for one in differential.classes
        ],
    )
    yield Paragraph(
        f"{differential.total} of {differential.of}, each counted once, "
        f"{differential.unidentified} unidentified beside them, at the last frame."
    )


def _event_blocks(story: RunHistory) -> Iterator[Block]:
    if not story.classes:
        return
    yield Heading("Events")
    told = list(story.events.values())
    if not told:
        yield Paragraph("Nothing happened to any cell that was followed.")
        return
    yield TextTable(
        ("event", "cell", "change", "onset (UTC)", "frame", "sure", "ended"),
        [
            (
                str(e.id),
                str(e.track_id),
                e.change,
                _time_text(e.onset_utc),
                str(e.onset),
                f"{100 * e.confidence:.0f} %",
                e.reason or "goes on",
            )
            for e in told[:_MAX_EVENTS]
        ],
    )
    if len(told) > _MAX_EVENTS:
        yield Paragraph(f"{len(told) - _MAX_EVENTS} more are in the archive.")


def _draw_counts(story: RunHistory) -> Image:
    unit_s, unit = _time_unit(story)
    length = story.seconds / unit_s
    most = max(float(np.nanmax(c, initial=1.0)) for c in story.counts.values())
    axes = Axes(
        (0.0, length), (0.0, 1.2 * most), labels=(f"{unit} since the start", "cells")
    )
    for place, (label, counts) in enumerate(story.counts.items()):
        row, column = divmod(place, _NAMES_PER_ROW)
        at = (70 + 175 * column, 36 + 16 * row)
        _write_text(axes.image, label, at, _label_colour(label))
        middles = (np.arange(len(counts)) + 0.5) / len(counts) * length
        known = np.flatnonzero(np.isfinite(counts))
        for part in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            x, y = middles[part].tolist(), counts[part].tolist()
            if len(part) == 1:
                axes.dots(x, y, _label_colour(label))
            elif len(part):
                axes.line(x, y, _label_colour(label))
    return axes.image


def _label_colour(label: str) -> Colour:
    red, green, blue = bytes.fromhex(dict(legend()).get(label, "#666666")[1:])
    return red, green, blue


def _draw_cell(story: RunHistory, track: int, course: CellHistory) -> Picture:
    """Draw one cell: its pictures, and its ribbon."""
    events = [e for e in story.events.values() if e.track_id == track]
    strip = story.strips.get(track)
    parts = [] if strip is None else [_draw_filmstrip(strip)]
    parts.append(_draw_class_ribbon(story, course, events))
    changes = " and ".join(dict.fromkeys(e.change for e in events))
    words = f"Cell {track}: {changes}, onset {_time_text(events[0].onset_utc)} UTC."
    if strip is None:
        words += " No pictures travelled with it: its rows had no room."
    name = f"cell-{track}"
    return Picture(name, png(np.vstack(parts)), f"Cell {track} over time", words)


def _draw_filmstrip(strip: Filmstrip) -> Image:
    """Unroll a strip: its pictures side by side, and their frames."""
    tiles = np.full((_TILE_PX + 18, PAGE_PX, 3), PAPER, np.uint8)
    read = cv2.imdecode(np.frombuffer(strip.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if read is None:
        return tiles
    count = len(strip.frames)
    row = resized(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), _TILE_PX * count)
    high = min(row.shape[0], _TILE_PX)
    tiles[:high, : row.shape[1]] = row[:high]
    for place, frame in enumerate(strip.frames):
        _write_text(tiles, str(frame), (place * _TILE_PX + 4, _TILE_PX + 13))
    return tiles


def _draw_class_ribbon(
    story: RunHistory, course: CellHistory, events: Sequence[Event]
) -> Image:
    """Draw the probability of each class over the time the cell was followed."""
    ribbon = np.full((_RIBBON_PX + 22, PAGE_PX, 3), PAPER, np.uint8)
    if not course.seconds:
        return ribbon
    first, last = course.seconds[0], course.seconds[-1]
    wide = max(last - first, 1.0)
    at = np.searchsorted(course.seconds, first + np.arange(PAGE_PX) / PAGE_PX * wide)
    shares = np.array(course.shares)[np.minimum(at, len(course.shares) - 1)]
    edges = np.rint(np.cumsum(shares, axis=1) * _RIBBON_PX).astype(int)
    for x in range(PAGE_PX):
        top = 0
        for colour, bottom in zip(_CHANGE_COLOURS, edges[x].tolist(), strict=False):
            ribbon[top:bottom, x] = colour
            top = bottom
    for event in events:
        part = (story.onsets[event.id] - first) / wide
        x = round(min(max(part, 0.0), 1.0) * (PAGE_PX - 2))
        ribbon[: _RIBBON_PX + 6, x : x + 2] = INK
    unit_s, unit = _time_unit(story)
    _write_text(ribbon, f"{first / unit_s:.1f} {unit}", (2, _RIBBON_PX + 18))
    _write_text(ribbon, f"{last / unit_s:.1f} {unit}", (PAGE_PX - 96, _RIBBON_PX + 18))
    return ribbon


def _time_unit(story: RunHistory) -> tuple[int, str]:
    """Seconds of the unit that a run is told in, and its name."""
    return (60, "minutes") if story.seconds < 7200 else (3600, "hours")


def _draw_legend(names: Sequence[str]) -> Image:
    picture = np.full((_LEGEND_PX, PAGE_PX, 3), PAPER, np.uint8)
    for place, (name, colour) in enumerate(zip(names, _CHANGE_COLOURS, strict=False)):
        x = 4 + place * 150
        picture[6:20, x : x + 14] = colour
        _write_text(picture, name, (x + 22, 18))
    picture[-1] = RULE
    return picture


def _write_text(
    picture: Image, text: str, at: tuple[int, int], colour: Colour = INK
) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, at, font, 0.42, colour, 1, cv2.LINE_AA)


def _time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
