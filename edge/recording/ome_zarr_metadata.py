"""What an OME-Zarr says of its image: axes, pixel size, colours."""

from __future__ import annotations

import msgspec
import numpy as np

from edge.recording.ome_xml import OmeImage

# Colours and full range for viewers (OME-Zarr 0.5, "omero"), which otherwise show three
# grey channels, each stretched by its own contrast.
_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


def image_metadata(image: OmeImage, array: str) -> bytes:
    """Return the `zarr.json` of the image: axes, pixel size, colours.

    OME-Zarr 0.5, sections "axes", "multiscales" and "omero". The time axis has no unit
    and the scale 1: a scale is one number, and the steps between frames differ. The
    time of a frame is with the frame (`delta_t_s`).
    """
    um = image.pixel_size_um
    unit = {} if um is None else {"unit": "micrometer"}
    axes = [  # in the order that section "axes" demands: time, channel, space
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", **unit} for name in "yx"),
    ]
    scale = [1.0, 1.0, um or 1.0, um or 1.0]
    full_scale = int(np.iinfo(image.dtype).max)
    window = {"start": 0, "end": full_scale, "min": 0, "max": full_scale}
    channels = [
        {"label": label, "color": colour, "active": True, "window": window}
        for label, colour in _COLOURS
    ]
    dataset = {
        "path": array,
        "coordinateTransformations": [{"type": "scale", "scale": scale}],
    }
    ome = {
        "version": "0.5",
        "multiscales": [{"name": image.name, "axes": axes, "datasets": [dataset]}],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    return msgspec.json.format(msgspec.json.encode(group), indent=1)
