"""The colour of each class, on pictures, pages and in tables; needs no OpenCV."""

from __future__ import annotations

from edge.taxonomy import UNIDENTIFIED

# The palette of Okabe and Ito (2008), which colour-blind people can tell apart too.
COLOURS = {
    "RBC": (213, 94, 0),
    "WBC": (0, 114, 178),
    "Platelet": (0, 158, 115),
    "Plasma": (150, 150, 150),
}
OTHER, ABSTAINED = (204, 121, 167), (240, 190, 0)


def legend() -> list[tuple[str, str]]:
    """Return class names and their colours as #rrggbb, for pages and tables."""
    colours = {**COLOURS, UNIDENTIFIED: ABSTAINED}
    return [(name, f"#{bytes(colour).hex()}") for name, colour in colours.items()]
