"""What can go wrong. A fault is over when its function returns."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from edge.errors import HemascopeError
from edge.ledger.cursor import PUBLISHER_LOCK, lock_holder
from edge.mqtt import Link
from edge.remote.client import new_request
from edge.settings.delivery import BrokerSettings
from tests.chaos.proxy import Direction, Proxy, Weather
from tests.chaos.site import Site, pause
from tests.chaos.witness import read_witness
from tests.chaos.writer import DEVICE, LEDGER
from tests.hostile import Arsenal, samples

Act = Callable[[Site, random.Random], None]
_HOSTILE_TOPICS = ("result", "ack", "state", "archive-state", "metrics", "alarm")


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. Two of them may go on at once if they touch different parts."""

    touches: frozenset[str]
    act: Act


def _kill(name: str, site: Site, rng: random.Random) -> None:
    site.kill(name)
    pause(rng.uniform(0, 0.5))
    site.start(name)


def _kill_broker(site: Site, rng: random.Random) -> None:
    site.broker.kill()
    site.restart_broker()


def _broker_away(site: Site, rng: random.Random) -> None:
    site.broker.kill()
    pause(rng.uniform(2, 5))
    site.restart_broker()


def _freeze(name: str, site: Site, rng: random.Random) -> None:
    site.send(name, signal.SIGSTOP)
    pause(rng.uniform(0.5, 5))
    site.send(name, signal.SIGCONT)


def _archive_stopped(site: Site, rng: random.Random) -> None:
    site.end("archive")
    pause(rng.uniform(1, 5))
    site.start("archive")


def _cut(site: Site, rng: random.Random) -> None:
    link = _either(site, rng)
    link.weather.is_cut_next = True
    pause(rng.uniform(0.1, 1.0))
    link.weather.is_cut_next = False


def _half_open(which: str, site: Site, rng: random.Random) -> None:
    """One direction stands still; the other goes on, and no side is told."""
    link = site.device_link if which == "device" else site.archive_link
    direction: Direction = rng.choice(("up", "down"))
    with _weather(link, Weather(held={direction})):
        pause(rng.uniform(0.5, 6))
        if rng.random() < 0.5:  # else the bytes arrive late
            link.cut()


def _delay(site: Site, rng: random.Random) -> None:
    with _weather(_either(site, rng), Weather(delay_s=rng.uniform(0.01, 0.3))):
        pause(rng.uniform(1, 4))


def _slow(site: Site, rng: random.Random) -> None:
    with _weather(_either(site, rng), Weather(bytes_per_s=rng.uniform(5e3, 40e3))):
        pause(rng.uniform(1, 4))


def _tamper(site: Site, rng: random.Random) -> None:
    share = rng.uniform(0.02, 0.3)
    with _weather(_either(site, rng), Weather(tampered_share=share)):
        pause(rng.uniform(1, 4))


def _refused(site: Site, rng: random.Random) -> None:
    link = _either(site, rng)
    link.refuse()
    pause(rng.uniform(0.5, 4))
    link.listen()


def _second_publisher(site: Site, rng: random.Random) -> None:
    """It must end, because the ledger is taken; the first must not notice."""
    first = site.running["publish"].pid
    deadline_s = time.monotonic() + 20
    # One that has just been started may not hold the ledger yet.
    while lock_holder(site.folder / LEDGER / PUBLISHER_LOCK) != first:
        assert time.monotonic() < deadline_s, "the first publisher does not start"
        pause(0.05)
    second = subprocess.Popen(
        site.command("publish"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert second.wait(30) == 1, "two processes published one ledger"
    finally:
        second.kill()


def _taken_over(site: Site, rng: random.Random) -> None:
    """Somebody else connects with the device's name, a few times."""
    for _ in range(rng.randrange(1, 4)):
        with suppress(HemascopeError):
            other = Link(BrokerSettings(port=site.broker.port), DEVICE, [])
            pause(rng.uniform(0.05, 0.5))
            other.close()


def _hostile(site: Site, rng: random.Random) -> None:
    """Payloads of `tests.hostile` on every topic that the two programs read."""
    row = read_witness(site.witness_file)[-1].data
    request = new_request("stop", "enemy")
    arsenal = Arsenal(rng, samples(site.epoch, row), request)
    with suppress(HemascopeError):
        patient = BrokerSettings(port=site.broker.port, keepalive_s=60)
        enemy = Link(patient, "enemy", [])
        for name in _HOSTILE_TOPICS:
            for shot in arsenal.shots(name, 10):
                enemy.publish(shot.topic, shot.payload, is_retained=shot.is_retained)
                if shot.is_retained:
                    enemy.publish(shot.topic, b"", is_retained=True)
            enemy.poll(0.05)
        enemy.close()


def _either(site: Site, rng: random.Random) -> Proxy:
    return rng.choice((site.device_link, site.archive_link))


@contextmanager
def _weather(link: Proxy, weather: Weather) -> Iterator[None]:
    link.weather = weather
    try:
        yield
    finally:
        link.weather = Weather()


_LINKS = frozenset({"device link", "archive link"})


def _touching(act: Act, *parts: str) -> Fault:
    return Fault(frozenset(parts), act)


FAULTS: dict[str, Fault] = {
    "publisher killed": _touching(partial(_kill, "publish"), "publish"),
    "archive killed": _touching(partial(_kill, "archive"), "archive"),
    "writer killed": _touching(partial(_kill, "writer"), "writer"),
    "broker killed": _touching(_kill_broker, "broker"),
    "broker away": _touching(_broker_away, "broker"),
    "broker frozen": _touching(partial(_freeze, "broker"), "broker"),
    "publisher frozen": _touching(partial(_freeze, "publish"), "publish"),
    "archive frozen": _touching(partial(_freeze, "archive"), "archive"),
    "writer frozen": _touching(partial(_freeze, "writer"), "writer"),
    "archive stopped": _touching(_archive_stopped, "archive"),
    "cut within a packet": Fault(_LINKS, _cut),
    "half open, device": Fault(_LINKS, partial(_half_open, "device")),
    "half open, archive": Fault(_LINKS, partial(_half_open, "archive")),
    "every chunk delayed": Fault(_LINKS, _delay),
    "slow link": Fault(_LINKS, _slow),
    "bytes altered": Fault(_LINKS, _tamper),
    "connections refused": Fault(_LINKS, _refused),
    "second publisher": _touching(_second_publisher, "publish"),
    "name taken over": _touching(_taken_over, "publish", "broker"),
    "hostile messages": _touching(_hostile, "broker"),
}
