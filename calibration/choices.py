"""What options of calibration may be; without numpy, so that help answers at once."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["reinhard", "macenko", "vahadane"]
METHODS: tuple[Method, ...] = get_args(Method)

MIN_FRAMES = 16  # of an empty field
MIN_CROPS = 64  # of cells for int8; with fewer, its ranges depend on chance
