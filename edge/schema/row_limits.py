"""What fits into one row of the ledger: the one home of these limits.

Brokers are set to refuse messages of 256 kB. A row is one message, so its bytes bound
everything else here: `tests/edge/timelapse/test_follower.py` and
`tests/edge/ledger/test_ledger.py` fill a row with all of it at once.
"""

from __future__ import annotations

MAX_ROW_BYTES = 200_000
MAX_CELLS = 800  # of one frame; a crowded field holds 300
MAX_FOLLOWED_CELLS = 530  # of one frame, each with the classes of its track
MAX_EVENTS = 50  # of one row; more wait for the next
MAX_FILMSTRIPS = 3  # of one row; further events are sent without pictures
MAX_CELLS_BESIDE_FILMSTRIPS = 300  # more cells leave no room for pictures
