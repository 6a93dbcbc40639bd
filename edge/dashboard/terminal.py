"""A live table of the devices in the terminal, from MQTT alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.dashboard.observer import (
    SUBSCRIPTIONS,
    DeviceView,
    Observer,
    drift_text,
    gaps_text,
    limits_text,
    slide_text,
)
from edge.errors import HemascopeError
from edge.mqtt import BrokerUnreachable, Link, Message, NameTaken
from edge.reconnection import SHORT_S, keep_serving
from edge.rendering.plain_text import plain
from edge.schema.messages import ActiveAlarm
from edge.schema.results import Differential
from edge.settings.delivery import BrokerSettings

_REFRESH_HZ = 4
_DRIFT_COLOURS = {"good": "green", "amber": "yellow", "red": "red"}
_COLUMNS = (
    "device",
    "state",
    "age",
    "per s",
    "row",
    "archived",
    "missing",
    "gaps",
    "drift",
)


def watch(
    broker: BrokerSettings,
    stop: Event,
    show: Callable[[Observer], None],
    client_id: str = "watch",
) -> None:
    """Observe every device until `stop`; call `show` a few times per second."""
    observer = Observer()

    def connect() -> Link:
        return Link(broker, client_id, SUBSCRIPTIONS)

    def serve(link: Link, stop: Event) -> None:
        shown_s, connected_s = 0.0, time.monotonic()
        try:
            while not stop.is_set():
                for event in link.poll(1 / _REFRESH_HZ):
                    if isinstance(event, Message):
                        observer.handle(event)
                if time.monotonic() - shown_s > 1 / _REFRESH_HZ:
                    shown_s = time.monotonic()
                    is_steady = shown_s - connected_s > SHORT_S
                    observer.note_connected(is_steady=is_steady)
                    show(observer)
        except BrokerUnreachable:
            observer.mark_unreachable()
            show(observer)  # at once, not only when a broker answers again
            raise
        link.close()

    def wait(error: HemascopeError) -> None:
        trouble, is_name_taken = str(error), isinstance(error, NameTaken)
        if is_name_taken:
            name = broker.username or client_id
            trouble = f"another screen uses the name {name}: {error}"
        observer.note_trouble(trouble, is_name_taken=is_name_taken)
        show(observer)

    keep_serving(connect, serve, stop, on_wait=wait)


def table(observer: Observer) -> RenderableType:
    """Return a table with one row per device, what it counted, and its alarms."""
    now_s = time.monotonic()
    grid = Table(
        title=f"archive: {observer.archive_state}",
        title_justify="left",
        box=SIMPLE_HEAD,  # the columns fit into 80 characters
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(_COLUMNS):
        is_text = column in ("state", "gaps", "drift")  # these wrap
        justify: Literal["left", "right"] = "right" if number > 1 else "left"
        grid.add_column(column, justify=justify, no_wrap=not is_text, overflow="fold")
    notes = []
    for view in observer.devices.values():
        grid.add_row(*_device_row(view, now_s))
        if view.reason is not None and view.status != "ok":
            note = f"{view.device}: {view.status}: {view.reason}"
            notes.append(plain(note, "yellow"))
        notes += [_alarm_text(view, alarm) for alarm in view.alarms.values()]
    if observer.trouble:
        notes.append(plain(observer.trouble, "bold red"))
    if not observer.devices:
        notes.append(Text("no device has sent anything yet", "dim"))
    counted = [
        text(view, now_s)
        for view in observer.devices.values()
        for text in (_differential_table, _cell_sums)
    ]
    return Group(grid, *(c for c in counted if c is not None), *notes)


def _differential_table(view: DeviceView, now_s: float) -> RenderableType | None:
    """Return a table of what a device counted on its slide, each cell once."""
    differential = view.differential
    if differential is None:
        return None
    stale = view.is_stale(now_s)
    title = _differential_title(view, differential, now_s)
    grid = Table(title=plain(title), title_justify="left", box=SIMPLE_HEAD)
    grid.add_column("class")
    for column in ("counted", "share", "95 % limits", "corrected", "more cells"):
        grid.add_column(column, justify="right")
    style = "dim" if stale else ""
    for one in differential.classes:
        corrected = "" if one.corrected is None else limits_text(one.corrected)
        grid.add_row(
            plain(one.label),
            str(one.count),
            f"{100 * one.exact.share:.1f} %",
            limits_text(one.exact),
            corrected,
            str(one.more),
            style=style,
        )
    grid.caption = (
        f"more cells: until limits are {100 * differential.wanted_width:g} % apart"
    )
    return grid


def _differential_title(
    view: DeviceView, differential: Differential, now_s: float
) -> str:
    """Return device, slide, how much is counted, and how fast."""
    parts = [
        f"{view.device}{', STALE' if view.is_stale(now_s) else ''}: {slide_text(view)}",
        f"{differential.total} of {differential.of}",
    ]
    if differential.unidentified:
        parts.append(f"{differential.unidentified} unidentified")
    rate = view.counted_per_min(now_s)
    if rate is not None:
        parts.append(f"{rate:.0f} per minute")
    parts.append(f"95 % within {_latency_text(view)}")
    if differential.since is not None:
        parts.append(f"since {differential.since:%H:%M} UTC: resumed")
    if differential.patches > 1:
        parts.append(f"{differential.patches} unjoined patches")
    return ", ".join(parts)


def _alarm_text(view: DeviceView, alarm: ActiveAlarm) -> Text:
    note = (
        f"{view.device}: {alarm.severity} alarm {alarm.code} since "
        f"{alarm.since:%Y-%m-%d %H:%M:%S} UTC: {alarm.text}"
    )
    return plain(note, "bold red" if alarm.severity == "red" else "yellow")


def _drift_status(view: DeviceView) -> str:
    return "" if view.drift is None else view.drift.status


def _latency_text(view: DeviceView) -> str:
    run = None if view.metrics is None else view.metrics.run
    if run is None or run.latency_ms is None:
        return "?"
    return f"{run.latency_ms.p95:.0f} ms"


def _device_row(view: DeviceView, now_s: float) -> tuple[RenderableType, ...]:
    age_s = view.age_s(now_s)
    stale = view.is_stale(now_s)
    state = view.state_text(now_s)
    state = f"{state}, STALE" if stale else state
    return (
        plain(view.device),
        Text(state, "red" if stale else "green"),
        "never" if age_s is None else f"{age_s:.1f} s",
        f"{view.rate_hz(now_s):.1f}",
        str(view.seq),
        str(view.acknowledged),
        Text(str(len(view.missing)), "red" if view.missing else ""),
        gaps_text(view),
        Text(drift_text(view, now_s), _DRIFT_COLOURS.get(_drift_status(view), "")),
    )


def _cell_sums(view: DeviceView, now_s: float) -> RenderableType | None:
    """Return cells over all frames, where no cells are counted once each."""
    if view.differential is not None or not view.cells:
        return None
    total = sum(view.cells.values())
    cells = "  ".join(
        f"{name} {count} ({100 * count / total:.1f} %)"
        for name, count in view.cells.most_common()
    )
    text = f"{view.device}: in all frames {cells}"
    return plain(text, "dim" if view.is_stale(now_s) else "")
