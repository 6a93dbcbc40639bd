"""What fits into a row of the ledger: the one home of these limits."""

from __future__ import annotations

MAX_ROW_BYTES = 200_000  # brokers are set to refuse 256 kB
