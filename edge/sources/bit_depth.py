"""Counts of 10, 12 or 14 bits, as many cameras give them."""

from __future__ import annotations

import numpy as np

from edge.frames import Counts


def over_16_bits(counts: Counts, bits: int) -> Counts:
    """Spread counts over 16 bits, so that full scale is full scale everywhere.

    Parameters
    ----------
    counts
        uint8, returned as it is, or uint16 with `bits` that mean something.
    bits
        8 to 15; counts are returned as they are with any others.

    Returns
    -------
    Counts
        0 stays 0 and the highest count becomes 65535: the upper bits are repeated
        below, which is multiplication by 65535 / (2**bits - 1), rounded down.
    """
    if counts.dtype == np.uint8 or not 8 <= bits < 16:
        return counts
    return np.asarray((counts << (16 - bits)) | (counts >> (2 * bits - 16)), np.uint16)
