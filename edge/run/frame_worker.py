"""A worker: takes one frame at a time the whole way, whatever happens to it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import msgspec

from edge.errors import FrameRejected, HemascopeError
from edge.frames import Counts, Exposure, Gap
from edge.ledger.preview_file import MAX_PREVIEW_BYTES, PreviewWriter
from edge.pipeline.empty_results import empty_result
from edge.pipeline.pipeline import ExaminedFrame, Pipeline
from edge.rendering.annotation import draw, to_jpeg
from edge.run.frame_queue import FrameQueue, QueuedFrame
from edge.run.frozen_image import digest_of
from edge.run.lasting_commands import Snapshots
from edge.schema.results import FrameResult
from edge.stages.thumbnail import Thumbnail

log = logging.getLogger(__name__)


class RunFailed(HemascopeError):
    """The run process must end: something is broken, and the next frame fails too."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrameOutcome:
    """What became of one queued frame or gap.

    `digest` is of the frame's pixels, None without a frame. `failure` is set where the
    fault was ours and not the frame's. `preview` is a JPEG when one was due, `snapshot`
    one in full size when it was asked for. `thumbnail` tells the frame's place on the
    slide; `frame` is the whole frame, only where cells are followed or it is recorded.
    """

    queued: QueuedFrame
    result: FrameResult
    digest: int | None = None
    failure: str | None = None
    preview: bytes | None = None
    snapshot: bytes | None = None
    thumbnail: Thumbnail | None = None
    frame: ExaminedFrame | None = None


WorkerMessage = FrameOutcome | HemascopeError


def rejected(queued: QueuedFrame, reason: str) -> FrameOutcome:
    """Return the outcome of a frame that could not be examined, by our own fault."""
    result = empty_result("rejected", reason, queued.item, queued.passed_over)
    return FrameOutcome(queued=queued, result=result, failure=reason)


@contextmanager
def failures_to(messages: queue.Queue[WorkerMessage], what: str) -> Iterator[None]:
    """Send what ends a thread to the main thread, which ends the run by it."""
    try:
        yield
    except HemascopeError as error:
        messages.put(error)
    except Exception as error:
        log.exception("%s failed", what)
        messages.put(RunFailed(f"{what} failed: {error!r}"))


class FrameWorker:
    """Examines frames in a thread of its own.

    `run` is for that thread, which alone touches the pipeline. The main thread reads
    `is_proven` and takes outcomes from `messages`; nothing else is shared.
    """

    def __init__(
        self,
        *,
        open_pipeline: Callable[[], Pipeline],
        frames: FrameQueue,
        messages: queue.Queue[WorkerMessage],
        previews: PreviewWriter,
        preview_width_px: int,
        snapshots: Snapshots | None,
        keeps_frames: bool,
    ) -> None:
        self._open_pipeline = open_pipeline
        self._frames, self._messages = frames, messages
        self._previews, self._preview_width_px = previews, preview_width_px
        self._snapshots, self._keeps_frames = snapshots, keeps_frames
        self.is_proven = threading.Event()  # its engines passed the self-test

    def run(self) -> None:
        """Take frames the whole way until the queue is closed."""
        with (
            failures_to(self._messages, "a worker"),
            closing(self._open_pipeline()) as pipeline,
        ):
            self.is_proven.set()
            while (queued := self._frames.take()) is not None:
                self._messages.put(self._examine(pipeline, queued))

    def _examine(self, pipeline: Pipeline, queued: QueuedFrame) -> FrameOutcome:
        """Return an outcome of a frame or gap, whatever happens."""
        item = queued.item
        if isinstance(item, Gap):
            result = empty_result("gap", item.reason, item)
            return FrameOutcome(queued=queued, result=result)
        try:
            examined = pipeline.examine(item)
        except FrameRejected as error:
            result = empty_result("rejected", str(error), item, queued.passed_over)
            return FrameOutcome(queued=queued, result=result)
        except Exception as error:
            log.exception("sequence=%d failed", item.shot.sequence)
            return rejected(queued, str(error) or repr(error))
        result = _as_queued(examined.result, queued, item)
        preview, snapshot = self._pictures(examined.raw.pixels, result)
        return FrameOutcome(
            queued=queued,
            result=result,
            digest=digest_of(examined.raw.pixels),
            preview=preview,
            snapshot=snapshot,
            thumbnail=examined.thumbnail,
            frame=examined if self._keeps_frames else None,
        )

    def _pictures(
        self, pixels: Counts, result: FrameResult
    ) -> tuple[bytes | None, bytes | None]:
        """Draw the preview and the snapshot that are due now, as JPEG."""
        preview = snapshot = None
        is_wanted = self._snapshots is not None and self._snapshots.is_wanted
        if self._snapshots is not None and is_wanted:
            snapshot = self._snapshots.draw(pixels, result)
        if self._previews.is_due() or (is_wanted and self._previews.is_enabled):
            preview = self._preview(pixels, result)
        return preview, snapshot

    def _preview(self, pixels: Counts, result: FrameResult) -> bytes | None:
        """Draw a preview; a result never waits or fails for a picture of it."""
        try:
            picture = draw(pixels, result, self._preview_width_px)
            return to_jpeg(picture, MAX_PREVIEW_BYTES)
        except Exception:
            log.exception("sequence=%d preview not drawn", result.frame.first)
            return None


def _as_queued(
    result: FrameResult, queued: QueuedFrame, exposure: Exposure
) -> FrameResult:
    """Add to a result what the queue and the schedule know of its frame."""
    frame = msgspec.structs.replace(result.frame, passed_over=queued.passed_over)
    return msgspec.structs.replace(
        result,
        frame=frame,
        point=None if exposure.planned is None else exposure.planned.what,
        timings_ms={"wait": queued.waited_ms, **result.timings_ms},
    )
