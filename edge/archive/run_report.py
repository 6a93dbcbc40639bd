"""The report of a run: counts over time, events, and each changed cell over time.

It is made from the archive alone, on the lab server or wherever its file can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from edge.archive.run_history import CellHistory, RunHistory
from edge.archive.run_list import time_text
from edge.rendering.class_colours import legend
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


def write_run_page(folder: Path, history: RunHistory) -> Path:
    """Write `report.html`, and `report.md` with its figures; return the former."""
    start = history.span.start
    title = f"Run {start.run}" + (f", slide {start.slide}" if start.slide else "")
    return write_pages(folder, title, list(_blocks(history)))


def _blocks(history: RunHistory) -> Iterator[Block]:
    yield TextTable(("", ""), _facts(history))
    yield from _differential_blocks(history)
    if history.counts:
        yield Heading("Counts over time")
        yield Picture(
            "counts",
            png(_draw_counts(history)),
            "Cells per frame over time",
            "Mean number of cells per examined frame; a line breaks where nothing was "
            "examined.",
        )
    yield from _event_blocks(history)
    if history.cells:
        yield Heading("What changed, cell by cell")
        caption = (
            "For each cell: its pictures over time, with the numbers of their frames. "
            "Below them, the probability of each class as the height of its colour, "
            "from the first to the last frame in which the cell was followed. A line "
            "marks the onset."
        )
        yield Picture("classes", png(_draw_legend(history.classes)), "Classes", caption)
        for track, cell in history.cells.items():
            yield _draw_cell(history, track, cell)
        others = len({e.track_id for e in history.events.values()}) - len(history.cells)
        if others > 0:
            yield Paragraph(f"{others} more cells changed and are not drawn.")
    if history.incidents:
        yield Heading("Gaps, alarms, notes and commands")
        rows = [(time_text(at), text) for at, text in history.incidents]
        yield TextTable(("time (UTC)", "what"), rows)
        if history.more_incidents:
            yield Paragraph(f"{history.more_incidents} more are in the archive.")


def _facts(history: RunHistory) -> list[tuple[str, str]]:
    span, last, rows = history.span, history.last, history.statuses
    end = "ended" if span.is_ended else "not ended"
    facts = [
        ("device", span.chain.device),
        ("operator", span.start.operator or "not given"),
        ("start (UTC)", time_text(span.utc)),
        ("last row (UTC)", f"{time_text(history.until)}, {end}"),
        ("rows", f"{span.first} to {span.last} of ledger {span.chain.epoch}"),
        *((f"frames {name}", str(rows[name])) for name in ("ok", "degraded")),
        *((f"rows {name}", str(rows[name])) for name in ("rejected", "gap")),
    ]
    if history.unreadable:
        facts.append(("rows unreadable", f"{history.unreadable}, of another version"))
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


def _differential_blocks(history: RunHistory) -> Iterator[Block]:
    differential = None if history.last is None else history.last.differential
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


def _event_blocks(history: RunHistory) -> Iterator[Block]:
    if not history.classes:
        return
    yield Heading("Events")
    events = list(history.events.values())
    if not events:
        yield Paragraph("No cell that was followed changed.")
        return
    yield TextTable(
        ("event", "cell", "change", "onset (UTC)", "frame", "sure", "ended"),
        [
            (
                str(e.id),
                str(e.track_id),
                e.change,
                time_text(e.onset_utc),
                str(e.onset),
                f"{100 * e.confidence:.0f} %",
                e.reason or "goes on",
            )
            for e in events[:_MAX_EVENTS]
        ],
    )
    if len(events) > _MAX_EVENTS:
        yield Paragraph(f"{len(events) - _MAX_EVENTS} more are in the archive.")


def _draw_counts(history: RunHistory) -> Image:
    unit_s, unit = _time_unit(history)
    duration = history.seconds / unit_s
    highest = max(float(np.nanmax(c, initial=1.0)) for c in history.counts.values())
    axes = Axes(
        (0.0, duration),
        (0.0, 1.2 * highest),
        labels=(f"{unit} since the start", "cells"),
    )
    for index, (label, counts) in enumerate(history.counts.items()):
        row, column = divmod(index, _NAMES_PER_ROW)
        at = (70 + 175 * column, 36 + 16 * row)
        _write_text(axes.image, label, at, _label_colour(label))
        middles = (np.arange(len(counts)) + 0.5) / len(counts) * duration
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


def _draw_cell(history: RunHistory, track: int, cell: CellHistory) -> Picture:
    """Draw one cell: its pictures, and below them the ribbon of its classes."""
    events = [e for e in history.events.values() if e.track_id == track]
    filmstrip = history.filmstrips.get(track)
    parts = [] if filmstrip is None else [_draw_filmstrip(filmstrip)]
    parts.append(_draw_class_ribbon(history, cell, events))
    changes = " and ".join(dict.fromkeys(e.change for e in events))
    caption = f"Cell {track}: {changes}, onset {time_text(events[0].onset_utc)} UTC."
    if filmstrip is None:
        caption += " It has no pictures: its rows had no room for them."
    name = f"cell-{track}"
    return Picture(name, png(np.vstack(parts)), f"Cell {track} over time", caption)


def _draw_filmstrip(filmstrip: Filmstrip) -> Image:
    """Draw a filmstrip: its pictures side by side, and below the frames' numbers.

    Returns (_TILE_PX + 18, PAGE_PX, 3) uint8, RGB.
    """
    tiles = np.full((_TILE_PX + 18, PAGE_PX, 3), PAPER, np.uint8)
    decoded = cv2.imdecode(np.frombuffer(filmstrip.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        return tiles
    count = len(filmstrip.frames)
    row = resized(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), _TILE_PX * count)
    height = min(row.shape[0], _TILE_PX)
    tiles[:height, : row.shape[1]] = row[:height]
    for index, frame in enumerate(filmstrip.frames):
        _write_text(tiles, str(frame), (index * _TILE_PX + 4, _TILE_PX + 13))
    return tiles


def _draw_class_ribbon(
    history: RunHistory, cell: CellHistory, events: Sequence[Event]
) -> Image:
    """Draw the probability of each class over the time in which the cell was followed.

    Returns (_RIBBON_PX + 22, PAGE_PX, 3) uint8, RGB: one column per moment.
    """
    ribbon = np.full((_RIBBON_PX + 22, PAGE_PX, 3), PAPER, np.uint8)
    if not cell.seconds:
        return ribbon
    first, last = cell.seconds[0], cell.seconds[-1]
    duration = max(last - first, 1.0)
    nearest = np.searchsorted(
        cell.seconds, first + np.arange(PAGE_PX) / PAGE_PX * duration
    )
    probabilities = np.array(cell.probabilities)[
        np.minimum(nearest, len(cell.probabilities) - 1)
    ]
    edges = np.rint(np.cumsum(probabilities, axis=1) * _RIBBON_PX).astype(int)
    for x in range(PAGE_PX):
        top = 0
        for colour, bottom in zip(_CHANGE_COLOURS, edges[x].tolist(), strict=False):
            ribbon[top:bottom, x] = colour
            top = bottom
    for event in events:
        position = (history.onsets[event.id] - first) / duration
        x = round(min(max(position, 0.0), 1.0) * (PAGE_PX - 2))
        ribbon[: _RIBBON_PX + 6, x : x + 2] = INK
    unit_s, unit = _time_unit(history)
    _write_text(ribbon, f"{first / unit_s:.1f} {unit}", (2, _RIBBON_PX + 18))
    _write_text(ribbon, f"{last / unit_s:.1f} {unit}", (PAGE_PX - 96, _RIBBON_PX + 18))
    return ribbon


def _time_unit(history: RunHistory) -> tuple[int, str]:
    """Return the unit for times of a run: its seconds, and its name."""
    return (60, "minutes") if history.seconds < 7200 else (3600, "hours")


def _draw_legend(names: Sequence[str]) -> Image:
    picture = np.full((_LEGEND_PX, PAGE_PX, 3), PAPER, np.uint8)
    for index, (name, colour) in enumerate(zip(names, _CHANGE_COLOURS, strict=False)):
        x = 4 + index * 150
        picture[6:20, x : x + 14] = colour
        _write_text(picture, name, (x + 22, 18))
    picture[-1] = RULE
    return picture


def _write_text(
    picture: Image, text: str, at: tuple[int, int], colour: Colour = INK
) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, at, font, 0.42, colour, 1, cv2.LINE_AA)
