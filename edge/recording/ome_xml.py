"""What an OME-TIFF says of itself: OME-XML of one time series in RGB.

Schema of June 2016, https://www.openmicroscopy.org/Schemas/OME/2016-06.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.etree import ElementTree

_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_PLACE = f"{_SCHEMA} {_SCHEMA}/ome.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


@dataclass(frozen=True, slots=True)
class Plane:
    """One frame: seconds since the recording began, and how long it was exposed."""

    delta_t_s: float
    exposure_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """The series: `kind` is "uint8" or "uint16", `said` becomes key and value pairs.

    `pixel_size_um` is None where nobody knows it.
    """

    name: str
    acquired: datetime
    width_px: int
    height_px: int
    kind: str
    pixel_size_um: float | None
    software: str
    attributes: Mapping[str, str]


def ome_xml(image: Image, planes: Sequence[Plane]) -> bytes:
    """Return the OME-XML of `planes`, the n-th of which is the file's n-th page.

    In UTF-8, as other writers do, although TIFF wants ASCII: Bio-Formats refuses
    references such as that of µ.
    """
    root = ElementTree.Element(
        "OME",
        {
            "xmlns": _SCHEMA,
            "xmlns:xsi": _XSI,
            "xsi:schemaLocation": _PLACE,
            "Creator": image.software,
        },
    )
    series = ElementTree.SubElement(
        root, "Image", {"ID": "Image:0", "Name": image.name}
    )
    ElementTree.SubElement(
        series, "AcquisitionDate"
    ).text = image.acquired.isoformat().replace("+00:00", "Z")
    pixels = ElementTree.SubElement(series, "Pixels", _pixels(image, len(planes)))
    ElementTree.SubElement(
        pixels, "Channel", {"ID": "Channel:0:0", "SamplesPerPixel": "3"}
    )
    for number in range(len(planes)):
        place = {"FirstC": "0", "FirstT": str(number), "FirstZ": "0"}
        ElementTree.SubElement(
            pixels, "TiffData", {**place, "IFD": str(number), "PlaneCount": "1"}
        )
    for number, plane in enumerate(planes):
        ElementTree.SubElement(pixels, "Plane", _plane(number, plane))
    ElementTree.SubElement(series, "AnnotationRef", {"ID": "Annotation:0"})
    notes = ElementTree.SubElement(root, "StructuredAnnotations")
    pairs = ElementTree.SubElement(
        ElementTree.SubElement(
            notes, "MapAnnotation", {"ID": "Annotation:0", "Namespace": "hemascope"}
        ),
        "Value",
    )
    for key, value in image.attributes.items():
        ElementTree.SubElement(pairs, "M", {"K": key}).text = value
    head = b'<?xml version="1.0" encoding="UTF-8"?>'
    text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)
    return head + bytes(text)


def _pixels(image: Image, frames: int) -> dict[str, str]:
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT",
        "Type": image.kind,
        "BigEndian": "false",
        "Interleaved": "true",
        "SizeX": str(image.width_px),
        "SizeY": str(image.height_px),
        "SizeC": "3",
        "SizeZ": "1",
        "SizeT": str(frames),
    }
    if image.pixel_size_um is not None:
        for axis in "XY":
            attributes[f"PhysicalSize{axis}"] = repr(image.pixel_size_um)
            attributes[f"PhysicalSize{axis}Unit"] = "µm"
    return attributes


def _plane(number: int, plane: Plane) -> dict[str, str]:
    attributes = {
        "TheC": "0",
        "TheT": str(number),
        "TheZ": "0",
        "DeltaT": repr(plane.delta_t_s),
        "DeltaTUnit": "s",
    }
    if plane.exposure_ms is not None:
        attributes["ExposureTime"] = repr(plane.exposure_ms)
        attributes["ExposureTimeUnit"] = "ms"
    return attributes
