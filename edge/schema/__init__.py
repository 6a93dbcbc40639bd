"""The types of everything that leaves or enters a program as JSON, and their codec.

Terms
-----
row
    A result or an entry as it stands in the ledger, travels, and lies in the archive.
message
    What is sent on an MQTT topic: a row, a device's state, an acknowledgement, ...
strict
    A type that refuses an unknown field, a wrong type and a value out of its range.

What a new type must do
-----------------------
- It is a frozen `msgspec.Struct` with `forbid_unknown_fields`, most easily by deriving
  from `results.StrictRecord`.
- Its docstring says what each field means, with units: it becomes the description in
  `docs/schema`, which `python -m edge schema docs/schema` writes.
- Bytes from outside are decoded by `codec.decode` and by nothing else.
- A published field is neither renamed nor removed. A new one has a default, so that
  rows of earlier versions can still be read.

Examples
--------
Encode the result of a frame, and decode it again:

>>> from datetime import datetime, timezone
>>> from edge.schema.codec import PayloadInvalid, decode, encode
>>> from edge.schema.results import FrameRange, FrameResult
>>> result = FrameResult(
...     status="ok",
...     utc=datetime(2026, 1, 1, tzinfo=timezone.utc),
...     monotonic_ns=1,
...     boot_id="boot-1",
...     clock_synchronised=True,
...     source="simulated",
...     frame=FrameRange(first=7, last=7),
...     software="1.0",
...     counts={"RBC": 12, "WBC": 1},
... )
>>> data = encode(result)
>>> decode(data, FrameResult) == result
True

A field that the type does not know is refused, and so is a value out of range:

>>> try:
...     decode(data.replace(b'"counts"', b'"totals"'), FrameResult)
... except PayloadInvalid as error:
...     "unknown field `totals`" in str(error)
True
>>> try:
...     decode(data.replace(b'"RBC":12', b'"RBC":-1'), FrameResult)
... except PayloadInvalid as error:
...     "Expected `int` >= 0" in str(error)
True
"""
