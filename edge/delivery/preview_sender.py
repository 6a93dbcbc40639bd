"""Sends the newest preview, which the run process leaves beside the ledger."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from edge.ledger.preview_file import newest_preview
from edge.mqtt import Link, PayloadRefused, topic

log = logging.getLogger(__name__)

_PREVIEW_PERIOD_S = 1 / 30


class PreviewSender:
    """Sends each preview once, and none that a newer one has replaced."""

    def __init__(self, device: str, folder: Path) -> None:
        self._device, self._folder = device, folder
        self._seq, self._sought_s = 0, 0.0

    def send(self, link: Link) -> None:
        """Send the newest preview, if it was not sent yet.

        Raises
        ------
        BrokerUnreachable
            The connection is gone.
        """
        now_s = time.monotonic()
        if now_s - self._sought_s < _PREVIEW_PERIOD_S:
            return
        self._sought_s = now_s
        preview = newest_preview(self._folder, after=self._seq)
        if preview is None:
            return
        self._seq = preview.seq
        seq = ("seq", str(preview.seq))
        try:
            link.publish(
                topic(self._device, "preview"), preview.jpeg, qos=0, properties=(seq,)
            )
        except PayloadRefused as error:
            log.warning("preview of row %d not sent: %s", preview.seq, error)
