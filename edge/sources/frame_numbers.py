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


_MAX_SHORT_ID = 0xFFFF  # of GigE Vision without extended ids: 1 to 65535, then 1 again


def number_by_id(last: tuple[int, int] | None, frame_id: int) -> tuple[int, int]:
    """Return number and id of a frame whose camera counts with 16 or 64 bits.

    Parameters
    ----------
    last
        Number and id of the frame before, None for the first.
    frame_id
        This frame's, as the camera counts.

    Returns
    -------
    tuple[int, int]
        The number is at least one more than before; ids that are missing are a jump.
    """
    if last is None:
        return 0, frame_id
    number, before = last
    step = frame_id - before
    if (
        before <= _MAX_SHORT_ID and step < -_MAX_SHORT_ID // 2
    ):  # began again; some cameras count 0
        step += _MAX_SHORT_ID + (frame_id == 0)
    return number + max(1, step), frame_id
