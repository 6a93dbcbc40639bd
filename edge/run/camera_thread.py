"""The camera thread: read the source, and let the queue decide what is kept."""

from __future__ import annotations

import logging
import queue
import threading

from edge.frames import Source, SourceEnded
from edge.run.frame_queue import FrameQueue
from edge.run.frame_worker import RunFailed, WorkerMessage

log = logging.getLogger(__name__)

_READ_S = 0.5


class CameraThread:
    """Reads a source until it ends, `stop` is set, or the queue is closed.

    `run` is for its own thread, the only one that touches the source while it is
    alive; `take_answer` is for the main thread.
    """

    def __init__(
        self,
        source: Source,
        frames: FrameQueue,
        messages: queue.Queue[WorkerMessage],
        stop: threading.Event,
    ) -> None:
        self._source, self._frames = source, frames
        self._messages, self._stop = messages, stop
        self._answered = threading.Event()

    def run(self) -> None:
        """Read until the end; a source that fails ends the run."""
        try:
            while not self._stop.is_set():
                item = self._source.read(_READ_S)
                self._answered.set()
                if item is not None and not self._frames.put(item):
                    break
        except SourceEnded as end:
            log.info("%s", end)
        except Exception as error:
            log.exception("the source failed")
            self._messages.put(RunFailed(f"the source failed: {error!r}"))
        finally:
            self._frames.close()

    def take_answer(self) -> bool:
        """Whether `read` returned since the last call, with or without a frame."""
        has_answered = self._answered.is_set()
        self._answered.clear()
        return has_answered
