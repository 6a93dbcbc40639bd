"""The page, in a real browser."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from edge.dashboard import web
from edge.dashboard.observer import Observer
from edge.dashboard.web import Dashboard
from edge.errors import ConfigurationInvalid
from edge.ledger.reader import LedgerReader
from edge.ledger.writer import Ledger
from edge.mqtt import Message, topic
from edge.rendering.annotation import to_jpeg
from edge.schema.codec import encode
from edge.schema.messages import DeviceState
from edge.schema.results import (
    ClassShare,
    Differential,
    Drift,
    FrameResult,
    Limits,
    Result,
)
from tests.conftest import frame_result

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver


@pytest.fixture
def observer(tmp_path: Path) -> Observer:
    ledger = Ledger(tmp_path / "ledger", "scope-01")
    for _ in range(3):
        ledger.append(
            frame_result(cells=4, reason="<b>not a tag</b>", status="degraded")
        )
    ledger.close()
    reader = LedgerReader(tmp_path / "ledger")
    observer = Observer()
    online = DeviceState(
        state="online",
        device="scope-01",
        epoch="e",
        connection=1,
        oldest=1,
        seq=3,
        acknowledged=2,
        software="0",
    )
    observer.handle(
        Message(topic("scope-01", "state"), encode(online), is_retained=True)
    )
    for row in reader.rows(0, 10):
        observer.handle(
            Message(topic("scope-01", "result"), row.data, is_retained=False)
        )
    reader.close()
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[..., 1] = 200
    preview = Message(
        topic("scope-01", "preview"), to_jpeg(picture), False, (("seq", "3"),)
    )
    observer.handle(preview)
    return observer


def row_of(text: FrameResult, seq: int) -> Message:
    """The row that follows those of the observer."""
    fields = {f: getattr(text, f) for f in text.__struct_fields__}
    ledger = {"device": "scope-01", "epoch": "e", "seq": seq, "prev": "0" * 64}
    row = Result(**fields, **ledger)
    return Message(topic("scope-01", "result"), encode(row), is_retained=False)


@pytest.fixture
def dashboard(observer: Observer) -> Iterator[Dashboard]:
    """A page that is shown news, as `watch` does, until the test ends."""
    served = Dashboard(0)
    done = threading.Event()

    def keep_showing() -> None:
        while not done.is_set():  # a browser may take long to start
            observer.devices["scope-01"].last_result_s = time.monotonic()
            served.show(observer)
            done.wait(0.1)

    shower = threading.Thread(target=keep_showing)
    shower.start()
    yield served
    done.set()
    shower.join()
    served.close()


def get(url: str) -> tuple[bytes, dict[str, str]]:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 our own page
        return answer.read(), dict(answer.headers)


@pytest.mark.parametrize(
    ("name", "code"),
    [("localhost:9000", 200), ("scope.lab", 200), ("evil.example", 403), ("", 403)],
)
def test_the_page_answers_to_its_own_names_alone(name: str, code: int) -> None:
    """Else a stranger's page could lead its own name here and read pictures."""
    served = Dashboard(0, names=["Scope.lab"])
    port = int(served.url.rsplit(":", 1)[1].strip("/"))
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    asking.putrequest("GET", "/", skip_host=True)
    asking.putheader("Host", name)
    asking.endheaders()

    assert asking.getresponse().status == code
    asking.close()
    served.close()


def test_the_page_lets_nothing_foreign_in(dashboard: Dashboard) -> None:
    page, headers = get(dashboard.url)

    assert b"http://" not in page
    assert b"https://" not in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("host", ["[::1", "[", "a]b"])
def test_a_host_that_is_no_name_is_refused_without_a_traceback(
    dashboard: Dashboard, host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    address = dashboard.url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.putrequest("GET", "/", skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()

    assert connection.getresponse().status == 403
    assert "Traceback" not in capfd.readouterr().err


def test_pages_of_others_may_not_show_what_is_here(dashboard: Dashboard) -> None:
    for path in ("", "page.js", "preview/scope-01.jpg"):
        _, headers = get(dashboard.url + path)
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_idle_connections_neither_fill_the_machine_nor_stay(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web._Handler, "timeout", 1.0)
    port = int(dashboard.url.rsplit(":", 1)[1].rstrip("/"))
    before = threading.active_count()

    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
    time.sleep(0.5)
    most = threading.active_count() - before
    deadline_s = time.monotonic() + 20
    answer = None
    while answer is None and time.monotonic() < deadline_s:
        with suppress(OSError, http.client.HTTPException):
            answer = get(dashboard.url)
        time.sleep(0.2)
    for one in idle:
        one.close()

    assert 0 < most <= web._MAX_CONNECTIONS
    assert answer is not None


def test_events_carry_what_the_observer_knows(dashboard: Dashboard) -> None:
    with urllib.request.urlopen(dashboard.url + "events", timeout=5) as answer:  # noqa: S310
        line = answer.readline()

    view = json.loads(line.removeprefix(b"data: "))
    (device,) = view["devices"]
    assert device["device"] == "scope-01"
    assert device["cells"] == {"RBC": 12}


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "preview/other.jpg",
        "preview/../page.js",
        "../../etc/passwd",
        "preview/%2e%2e%2fx.jpg",
    ],
)
def test_nothing_else_is_served(dashboard: Dashboard, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(dashboard.url + path)
    assert error.value.code == 404
    error.value.close()


def test_a_taken_port_is_said(dashboard: Dashboard) -> None:
    port = int(dashboard.url.rstrip("/").rsplit(":", 1)[1])

    with pytest.raises(ConfigurationInvalid, match="choose another port"):
        Dashboard(port)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium: run make setup")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--window-size=1200,800",
        f"--user-data-dir={tmp_path}/profile",
    ):
        options.add_argument(argument)
    started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield started
    started.quit()


def await_text(browser: WebDriver, tag: str, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in browser.find_element("tag name", tag).text:
        assert time.monotonic() < deadline, f"{text!r} is not shown"
        time.sleep(0.1)


def test_a_person_sees_picture_counts_and_state(
    dashboard: Dashboard, browser: WebDriver, tmp_path: Path
) -> None:
    browser.get(dashboard.url)
    await_text(browser, "main", "scope-01")
    time.sleep(1.0)  # let the picture arrive
    browser.save_screenshot(str(tmp_path / "page.png"))

    picture = cv2.imread(str(tmp_path / "page.png"))
    green = (picture[..., 1] > 150) & (picture[..., 0] < 90) & (picture[..., 2] < 90)
    assert green.mean() > 0.1  # the preview is shown
    text = browser.find_element("tag name", "body").text
    assert "RBC 4 12 100.0 %" in text
    assert "<b>not a tag</b>" in text
    assert "3 (2 archived)" in text
    assert "not live" not in text
    assert browser.get_log("browser") == []  # nothing refused by the policy


def test_a_person_sees_the_differential_with_its_limits(
    observer: Observer, dashboard: Dashboard, browser: WebDriver
) -> None:
    exact = Limits(share=0.7, low=0.61, high=0.78)
    observer.devices["scope-01"].run = "20260101T120000Z-0000ab"
    observer.devices["scope-01"].differential = Differential(
        of="all cells",
        total=100,
        unidentified=3,
        classes=(
            ClassShare(label="RBC", count=70, exact=exact, more=1230),
            ClassShare(label="unidentified", count=12345, exact=exact, more=12345),
        ),
        wanted_width=0.05,
        patches=2,
    )
    dashboard.show(observer)
    gap = frame_result(cells=0, status="gap", reason="2 frames skipped")
    observer.handle(row_of(gap, 4))

    browser.get(dashboard.url)

    await_text(browser, "main", "counted once")
    await_text(browser, "main", "2 frames skipped")
    ends = "return document.querySelector(arguments[0]).getBoundingClientRect().right"
    table_px, card_px = (browser.execute_script(ends, n) for n in ("table", "section"))
    assert table_px <= card_px + 1
    text = browser.find_element("tag name", "body").text
    assert "RBC 4 70 70.0 % 61.0 to 78.0 % 1,230" in text
    assert "100 all cells, 3 unidentified" in text
    assert "2 patches not joined yet" in text


def test_figures_of_what_is_not_live_are_pale_and_nothing_is_in_view(
    observer: Observer, dashboard: Dashboard, browser: WebDriver
) -> None:
    view = observer.devices["scope-01"]
    view.drift = Drift(status="red", of="background", advice="calibrate", background=5)
    view.gaps, view.lost = 2, 41
    browser.get(dashboard.url)
    await_text(browser, "main", "RBC 4 12 100.0 %")
    await_text(browser, "main", "red: background ΔE 5.0")
    facts = browser.find_element("tag name", "dl")
    assert facts.value_of_css_property("opacity") == "1"
    assert "2, 41 frames" in facts.text
    assert "calibrate" in facts.text
    assert "quality" in facts.text

    view.state = "offline"

    await_text(browser, "main", "RBC - 12 100.0 %")
    await_text(browser, "main", "was red: background")
    for name in ("dl", "table"):
        pale = browser.find_element("tag name", name)
        assert float(pale.value_of_css_property("opacity")) < 0.6


def test_a_page_that_the_broker_refuses_says_so(
    observer: Observer, dashboard: Dashboard, browser: WebDriver
) -> None:
    observer.note_trouble("broker lab:8883: refuses us", is_name_taken=False)
    dashboard.show(observer)

    browser.get(dashboard.url)

    await_text(browser, "header", "not connected: broker lab:8883: refuses us")


def test_what_is_not_live_is_shown_as_such(
    observer: Observer, dashboard: Dashboard, browser: WebDriver
) -> None:
    observer.devices["scope-01"].state = "offline"
    dashboard.show(observer)

    browser.get(dashboard.url)

    await_text(browser, "main", "offline, not live")
    dashboard.close()
    await_text(browser, "header", "not live")


def test_closing_ends_the_streams(observer: Observer) -> None:
    served = Dashboard(0)
    served.show(observer)
    with urllib.request.urlopen(served.url + "events", timeout=5) as answer:  # noqa: S310
        answer.readline()
        start = time.monotonic()
        served.close()
        answer.read()

    assert time.monotonic() - start < 3


def test_without_news_nothing_is_live(
    observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that hears of devices may hang; the page must say so by itself."""
    served = Dashboard(0)
    served.show(observer)
    assert json.loads(served.data())["devices"][0]["is_stale"] is False
    moment = time.monotonic() + 4
    monkeypatch.setattr("edge.dashboard.web.time.monotonic", lambda: moment)

    view = json.loads(served.data())
    served.close()
    assert view["devices"][0]["is_stale"] is True
    assert view["devices"][0]["state"] == "no new data"
    assert view["archive"] == "unknown"
