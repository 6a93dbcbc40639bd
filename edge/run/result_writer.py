"""Write a result, and pass the row on to all who need it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from edge.errors import HemascopeError
from edge.ledger.preview_file import Preview, PreviewWriter
from edge.ledger.rows import LedgerRow, RowRefused
from edge.ledger.writer import Ledger
from edge.monitoring.systemd import Notifier
from edge.pipeline.empty_results import STOPPED, empty_result
from edge.recording.recorder import Recorder
from edge.run.frame_worker import FrameOutcome
from edge.run.housekeeping import Housekeeping
from edge.schema.entries import RunMark
from edge.schema.results import FrameResult

log = logging.getLogger(__name__)

_PRUNE_EVERY = 1000

OnRow = Callable[[LedgerRow, FrameResult], None]


class ResultWriter:
    """Writes rows in their order. Used by the main thread.

    The ledger comes first: a preview, a recorded frame or an alarm names a row that is
    on disk already.
    """

    def __init__(
        self,
        ledger: Ledger,
        previews: PreviewWriter,
        *,
        keep_rows: int,
        recorder: Recorder | None,
        housekeeping: Housekeeping | None,
        notifier: Notifier,
        on_row: OnRow,
    ) -> None:
        self._ledger, self._previews, self._keep_rows = ledger, previews, keep_rows
        self._recorder, self._housekeeping = recorder, housekeeping
        self._notifier, self._on_row = notifier, on_row

    def write(self, outcome: FrameOutcome) -> None:
        """Write the row of a frame or gap.

        Raises
        ------
        LedgerFull
            The disk is full.
        """
        result = outcome.result
        row = self._ledger.with_room(lambda: self._append(result))
        if outcome.preview is not None:
            self._previews.write(Preview(row.seq, outcome.preview))
        if self._recorder is not None:
            self._recorder.take(row.seq, outcome.queued.item, result, outcome.frame)
        if self._housekeeping is not None:
            self._housekeeping.note_row(row, result, outcome.snapshot)
        if row.seq % _PRUNE_EVERY == 0:
            self._ledger.prune(self._keep_rows)
        self._on_row(row, result)
        self._notifier.progress(f"row {row.seq}: {result.status} {result.reason or ''}")

    def write_marks(self, marks: Iterable[RunMark]) -> None:
        """Write the marks of runs that were started, noted and ended."""
        for mark in marks:
            self._ledger.with_room(partial(self._ledger.append, mark))

    def write_end(self, error: HemascopeError) -> None:
        """End the ledger with the reason why there are no more results."""
        try:
            self._append(empty_result("gap", f"{STOPPED}{error}", None))
        except HemascopeError as last:
            log.error("the ledger does not say why acquisition stopped: %s", last)

    def _append(self, result: FrameResult) -> LedgerRow:
        """Append a result; one that cannot be a row is written as a rejected one."""
        try:
            return self._ledger.append(result)
        except RowRefused as error:
            log.error("row refused: %s", error)
            bare = msgspec.structs.replace(
                result,
                status="rejected",
                reason=str(error),
                source="",
                cells=(),
                counts={},
                quality=None,
            )
            return self._ledger.append(bare)
