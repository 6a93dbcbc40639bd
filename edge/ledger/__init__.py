"""The ledger: a folder in which every row of one device is kept, durably and in order.

Terms
-----
row
    What is known of one frame (a result), or an entry that is not about a frame: an
    alarm, a note, a command, a run. A row is JSON. Its bytes never change.
chain
    Each row carries the sha256 of the bytes of the row before, in its field `prev`. So
    a row that is missing, altered or out of order shows.
epoch
    The id of one ledger. A new folder begins a new ledger with a new epoch.

What a user of this folder must do
----------------------------------
- Write with one `Ledger` (`writer.py`), from one thread. A second writer is refused.
- Read with a `LedgerReader` (`reader.py`), from any process and any number of them.
- Delete nothing. The writer deletes a row after the archive has acknowledged it, with
  the hash of that row (`cursor.py`).
- Take a row as kept when `append` has returned, not before.

Examples
--------
Write two rows, read them back, and check the chain:

>>> import tempfile
>>> from pathlib import Path
>>> from edge.ledger.reader import LedgerReader
>>> from edge.ledger.rows import LedgerRow, first_broken
>>> from edge.ledger.writer import Ledger
>>> from edge.schema.entries import Note, read_row
>>> with tempfile.TemporaryDirectory() as name:
...     ledger = Ledger(Path(name), device="scope-01")
...     for text in ("slide cleaned", "new stain from lot 7"):
...         row = ledger.append(Note(text=text, by="anna"))
...     reader = LedgerReader(Path(name))
...     rows = reader.rows(after=0, limit=10)
...     reader.close()
...     ledger.close()
>>> [row.seq for row in rows]
[1, 2]
>>> read_row(rows[1].data).entry.text
'new stain from lot 7'
>>> read_row(rows[1].data).prev == rows[0].sha256
True
>>> first_broken(rows) is None
True

A row that somebody changed is found by its number:

>>> forged = rows[0].data.replace(b"cleaned", b"soiled!")
>>> first_broken([LedgerRow(1, forged, rows[0].sha256), rows[1]])
1
"""
