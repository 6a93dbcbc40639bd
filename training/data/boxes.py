"""Boxes around cells: x0, y0, x1, y1 in pixels."""

from __future__ import annotations

Box = tuple[float, float, float, float]
_SLACK_PX = 1.0  # boxes may reach so far beyond the image, by drawing or rounding


def box_problem(box: Box, width_px: int, height_px: int) -> str | None:
    """Say what is wrong with a box in an image of this size; None if nothing is."""
    x0, y0, x1, y1 = box
    beyond = max(-x0, -y0, x1 - width_px, y1 - height_px)
    if beyond > _SLACK_PX:
        return (
            f"box {box} reaches {beyond:g} px outside its image of "
            f"{width_px}x{height_px} px; expected x0, y0, x1, y1 inside it"
        )
    if not (min(x1, width_px) > max(x0, 0) and min(y1, height_px) > max(y0, 0)):
        return f"box {box} is empty or not finite; expected x0 < x1 and y0 < y1"
    return None
