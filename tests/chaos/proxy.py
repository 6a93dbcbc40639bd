"""A TCP proxy that can be cut, held, slowed, refused, and made to alter bytes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from edge.demo.broker import free_port

Direction = Literal["up", "down"]  # to the broker, from the broker
_CHUNK_BYTES = 4096


@dataclass
class Weather:
    """What the proxy does with the bytes that pass."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    tampered_share: float = 0.0
    held: set[Direction] = field(default_factory=set)
    is_cut_next: bool = False


class Proxy:
    """Passes connections on to a port of this machine, from a thread of its own."""

    def __init__(self, target_port: int, seed: int) -> None:
        self.port, self.weather = free_port(), Weather()
        self.tampered_chunks = 0
        self._target_port = target_port
        self._rng = random.Random(seed)  # noqa: S311
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    def listen(self) -> None:
        """Take connections (again)."""
        self._wait(self._listen())

    def refuse(self) -> None:
        """Cut all connections, and let the kernel refuse new ones."""
        self._wait(self._refuse())

    def cut(self) -> None:
        """Cut all connections at once; bytes under way are lost."""
        self._wait(self._cut())

    def close(self) -> None:
        """End the thread."""
        self.refuse()
        self._wait(self._end_pumps())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end_pumps(self) -> None:
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _pass_on(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        try:
            broker_in, broker_out = await asyncio.open_connection(
                "127.0.0.1", self._target_port
            )
        except OSError:
            client_out.transport.abort()
            return
        self._writers |= {client_out, broker_out}
        pumps = (
            asyncio.ensure_future(self._pump(client_in, broker_out, "up")),
            asyncio.ensure_future(self._pump(broker_in, client_out, "down")),
        )
        self._pumps |= set(pumps)
        await asyncio.gather(*pumps, return_exceptions=True)
        self._pumps -= set(pumps)
        self._writers -= {client_out, broker_out}

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                await self._delay(data, direction)
                data = self._tamper(data)
                if self.weather.is_cut_next and len(data) > 1:
                    self.weather.is_cut_next = False
                    sink.write(data[: len(data) // 2])
                    await sink.drain()
                    await self._cut()
                    return
                sink.write(data)
                await sink.drain()
        sink.close()

    async def _delay(self, data: bytes, direction: Direction) -> None:
        while direction in self.weather.held:
            await asyncio.sleep(0.02)
        if self.weather.delay_s:
            await asyncio.sleep(self.weather.delay_s)
        if self.weather.bytes_per_s:
            await asyncio.sleep(len(data) / self.weather.bytes_per_s)

    def _tamper(self, data: bytes) -> bytes:
        if self._rng.random() >= self.weather.tampered_share:
            return data
        self.tampered_chunks += 1
        place = self._rng.randrange(len(data))
        other = data[place] ^ (1 << self._rng.randrange(8))
        return data[:place] + bytes([other]) + data[place + 1 :]
