"""A page that shows the devices live; it knows only what `Observer` knows.

It is served on the loopback address by the standard library. Others reach it through a
reverse proxy that adds TLS and log-in: this server has neither, and is made for a few
readers.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from edge.dashboard.observer import (
    DeviceView,
    Observer,
    drift_text,
    gaps_text,
    limits_text,
    slide_text,
)
from edge.errors import ConfigurationInvalid
from edge.rendering.class_colours import legend
from edge.schema.results import cells_found

_PERIOD_S = 0.25
_LOOPBACK = "localhost", "127.0.0.1", "::1"
_STALE_AFTER_S = 3.0  # `show` is called a few times per second
_TIMEOUT_S = 10.0
_MAX_CONNECTIONS = 64  # an open page holds one
_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


class Dashboard:
    """The server of the page, in threads of its own. `show` gives it new data."""

    def __init__(
        self, port: int, host: str = "127.0.0.1", names: Collection[str] = ()
    ) -> None:
        """Serve at once; port 0 takes a free one.

        `names` are host names under which a reverse proxy is reached. Requests for any
        other name are refused. Else a page of a stranger, whose name he lets point to
        this address (DNS rebinding), could read this one.

        Raises
        ------
        ConfigurationInvalid
            The port is taken.
        """
        self._data: dict[str, Any] = {}
        self._shown_s = time.monotonic()
        self.previews: dict[str, bytes] = {}
        self.stop = threading.Event()
        self.names = frozenset(name.lower() for name in (*_LOOPBACK, *names))
        try:
            self._server = _Server((host, port), partial(_Handler, self))
        except OSError as error:
            raise ConfigurationInvalid(
                f"page on {host}:{port}: {error.strerror}; choose another port"
            ) from error
        self.url = f"http://{host}:{self._server.server_address[1]}/"
        threading.Thread(
            target=self._server.serve_forever, name="dashboard", daemon=True
        ).start()

    def show(self, observer: Observer) -> None:
        """Show what the observer knows now."""
        self._data, self._shown_s = page_data(observer), time.monotonic()
        self.previews = {
            name: view.preview
            for name, view in observer.devices.items()
            if view.preview is not None
        }

    def data(self) -> bytes:
        """Return the data of the page as JSON; old data is marked as not live."""
        data = self._data
        if data and time.monotonic() - self._shown_s > _STALE_AFTER_S:
            old = [
                {**device, "is_stale": True, "state": "no new data"}
                for device in data["devices"]
            ]
            data = {**data, "archive": "unknown", "devices": old}
        return json.dumps(data).encode()

    def close(self) -> None:
        """Stop serving."""
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A server that closes connections beyond its limit, each of which is a thread."""

    daemon_threads = True
    request_queue_size = _MAX_CONNECTIONS

    def __init__(self, *address_and_handler: Any) -> None:
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(*address_and_handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, if one is free."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection; runs in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S  # of a connection that sends no request, or reads no answer

    def __init__(self, dashboard: Dashboard, *request: Any) -> None:
        self._dashboard = dashboard
        super().__init__(*request)

    def do_GET(self) -> None:
        host = _host_in(self.headers.get("Host", ""))
        if host not in self._dashboard.names:
            self.send_error(403, "unknown host name; allow it by watch --page-name")
            return
        path = self.path.split("?", 1)[0]
        preview = re.fullmatch(r"/preview/([a-z0-9-]+)\.jpg", path)
        if path in _FILES:
            name, kind = _FILES[path]
            self._send(files("edge.dashboard.page").joinpath(name).read_bytes(), kind)
        elif path == "/events":
            self._stream()
        elif preview and preview[1] in self._dashboard.previews:
            self._send(self._dashboard.previews[preview[1]], "image/jpeg")
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Do not log every request."""

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _SECURITY_POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with suppress(ConnectionError):  # the browser has closed the connection
            self.wfile.write(content)

    def _stream(self) -> None:
        """Send events, a few per second, until the browser closes the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with suppress(OSError):  # the browser has closed the connection
            while not self._dashboard.stop.wait(_PERIOD_S):
                self.wfile.write(b"data: " + self._dashboard.data() + b"\n\n")
                self.wfile.flush()


def _host_in(header: str) -> str | None:
    """Return the name in a Host header; None where it is none, such as `[::1`."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def page_data(observer: Observer) -> dict[str, Any]:
    """Return the data of the page."""
    now_s = time.monotonic()
    return {
        "archive": observer.archive_state,
        "trouble": observer.trouble,
        "colours": dict(legend()),
        "devices": [_device_data(view, now_s) for view in observer.devices.values()],
    }


def _device_data(view: DeviceView, now_s: float) -> dict[str, Any]:
    last, age_s, is_stale = view.examined, view.age_s(now_s), view.is_stale(now_s)
    return {
        "device": view.device,
        "state": view.state_text(now_s),
        "is_stale": is_stale,
        "cells": dict(view.cells.most_common()),
        "in_view": {} if last is None or is_stale else last.counts,
        "differential": _differential_data(view),
        "preview_seq": view.preview_seq,
        "reason": view.reason,
        "alarms": [
            {
                "severity": alarm.severity,
                "text": f"{alarm.code} since {alarm.since:%Y-%m-%d %H:%M:%S} UTC: "
                f"{alarm.text}",
            }
            for alarm in view.alarms.values()
        ],
        "facts": {
            "last result": "never" if age_s is None else f"{age_s:.1f} s ago",
            "results": f"{view.rate_hz(now_s):.1f} per second",
            **_run_facts(view, now_s),
            "row": f"{view.seq:,} ({view.acknowledged:,} archived)",
            "missing rows": f"{len(view.missing)}",
            "model": "" if last is None else last.model or "",
            "calibration": "none" if last is None else last.calibration_id or "none",
            "pixel size": _pixel_size_text(view),
            "quality": _quality_text(view),
            "gaps": gaps_text(view),
            "drift": drift_text(view, now_s),
            **_advice_facts(view),
            "per frame": _time_per_frame(view),
            **_metrics_facts(view),
        },
    }


def _advice_facts(view: DeviceView) -> dict[str, str]:
    """Return what to do about a drift; empty where there is none."""
    drift = view.drift
    return {} if drift is None or drift.advice is None else {"advice": drift.advice}


def _differential_data(view: DeviceView) -> dict[str, dict[str, Any]] | None:
    """Return counts, shares and limits by class, as text."""
    if view.differential is None:
        return None
    return {
        one.label: {
            "count": one.count,
            "share": f"{100 * (one.corrected or one.exact).share:.1f} %",
            "limits": limits_text(one.corrected or one.exact),
            "more": one.more,
        }
        for one in view.differential.classes
    }


def _run_facts(view: DeviceView, now_s: float) -> dict[str, str]:
    """Return the slide, its run, and how far counting is."""
    differential = view.differential
    if differential is None:
        return {"slide": "no run" if view.run is None else slide_text(view)}
    rate = view.counted_per_min(now_s)
    facts = {
        "slide": slide_text(view),
        "counted": f"{differential.total:,} {differential.of}, "
        f"{differential.unidentified:,} unidentified",
        "counting": "" if rate is None else f"{rate:.0f} cells per minute",
        "more cells": f"until limits are {100 * differential.wanted_width:g} % apart",
    }
    if differential.since is not None:
        facts["counted since"] = (
            f"{differential.since:%H:%M} UTC, when the run was resumed"
        )
    if differential.patches > 1:
        facts["mosaic"] = f"{differential.patches} patches not joined yet"
    return facts


def _metrics_facts(view: DeviceView) -> dict[str, str]:
    """Return the metrics of the device."""
    if view.metrics is None:
        return {"metrics": "none received"}
    run, facts = view.metrics.run, {}
    facts["not archived yet"] = f"{view.metrics.backlog:,} rows"
    if run is None:
        return {**facts, "run process": "sends no metrics"}
    if run.latency_ms is not None:
        latency = run.latency_ms
        facts["exposure to row"] = (
            f"{latency.p50:.0f} ms, 95 % {latency.p95:.0f}, 99 % {latency.p99:.0f}"
        )
    facts["frames"] = (
        f"{run.queue} in work, {run.passed_over:,} passed over, {run.rejected:,} "
        "rejected"
    )
    for camera, filled in run.filled.items():
        facts[f"filler bytes of {camera}"] = (
            f"{filled.bytes:,} in {filled.frames:,} frames"
        )
    facts["disk"] = (
        f"{100 * run.disk_used:.0f} % used, {run.disk_free_bytes / 2**30:.1f} GiB free"
    )
    if run.temperature_c is not None:
        facts["highest temperature"] = f"{run.temperature_c:.0f} °C"
    return facts


def _pixel_size_text(view: DeviceView) -> str:
    last = view.examined
    if last is None or last.pixel_size_um is None:
        return "unknown"
    return f"{last.pixel_size_um:.3f} µm ({last.pixel_size_origin})"


def _quality_text(view: DeviceView) -> str:
    last = view.examined
    if last is None or last.quality is None:
        return "unknown"
    brightness = last.quality.brightness
    light = "" if brightness is None else f", brightness {brightness:.2f}"
    return f"focus {last.quality.focus:.2f}{light}, {cells_found(last)} cells found"


def _time_per_frame(view: DeviceView) -> str:
    if view.examined is None:
        return ""
    times_ms = {k: v for k, v in view.examined.timings_ms.items() if k != "wait"}
    slowest = max(times_ms, key=lambda stage: times_ms[stage], default="")
    return f"{sum(times_ms.values()):.0f} ms, most of it {slowest}" if times_ms else ""
