"""Numbers with their bounds, and the strictness that all settings share."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0, le=1e6)]
NotNegative = Annotated[float, Meta(ge=0, le=1e6)]
Finite = Annotated[float, Meta(ge=-1e6, le=1e6)]
Pixels = Annotated[int, Meta(ge=16, le=16384)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class StrictSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of settings: immutable, refused if a key is unknown."""
