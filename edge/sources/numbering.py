"""Number the frames of drivers that do not number them."""

from __future__ import annotations


def number_by_time(
    last: tuple[int, float] | None, taken_s: float, period_s: float | None
) -> int:
    """Return the number of a frame taken at `taken_s`, given the one before.

    Parameters
    ----------
    last
        Number and time (s) of the frame before, None for the first.
    taken_s
        Time of this frame on the same clock.
    period_s
        Time between frames; None where nobody knows it, then no jump can be seen.

    Returns
    -------
    int
        At least one more than before; a pause of n periods is a jump of n.
    """
    if last is None:
        return 0
    number, before_s = last
    if period_s is None or taken_s <= before_s:
        return number + 1
    return number + max(1, round((taken_s - before_s) / period_s))
