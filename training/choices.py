"""What options of training may be; without torch, so that help answers at once."""

from __future__ import annotations

from typing import Literal, get_args

# In the order of `CLASSIFIERS`, which says how each is built and fitted.
FAMILIES = ("vgg16", "inception", "capsnet", "dbn", "rnn")
LOCATOR = "locator"
PRESETS = ("quick", "full")
SPLITS = ("train", "val", "test")

Colour = Literal["as-is", "white-point", "slide-reference"]
COLOURS: tuple[Colour, ...] = get_args(Colour)

Norm = Literal["batch", "group", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)
