"""OME-XML, by which an OME-TIFF describes itself: one time series in RGB.

Schema of June 2016, https://www.openmicroscopy.org/Schemas/OME/2016-06.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.etree import ElementTree

_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA_LOCATION = f"{_SCHEMA} {_SCHEMA}/ome.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


@dataclass(frozen=True, slots=True)
class OmePlane:
    """One frame: seconds since the recording began, and how long it was exposed."""

    delta_t_s: float
    exposure_ms: float | None = None


@dataclass(frozen=True, slots=True)
class OmeImage:
    """The time series; `attributes` are written as key and value pairs.

    `dtype` is "uint8" or "uint16". `pixel_size_um` is None where it is not known.
    """

    name: str
    acquired: datetime
    width_px: int
    height_px: int
    dtype: str
    pixel_size_um: float | None
    software: str
    attributes: Mapping[str, str]


def ome_xml(image: OmeImage, planes: Sequence[OmePlane]) -> bytes:
    """Return the OME-XML of `planes`, the n-th of which is the file's n-th frame.

    It is UTF-8, as other writers do, although TIFF asks for ASCII. Character references
    such as `&#181;` for µ would be ASCII, but Bio-Formats refuses them.
    """
    root = ElementTree.Element(
        "OME",
        {
            "xmlns": _SCHEMA,
            "xmlns:xsi": _XSI,
            "xsi:schemaLocation": _SCHEMA_LOCATION,
            "Creator": image.software,
        },
    )
    series = ElementTree.SubElement(
        root, "Image", {"ID": "Image:0", "Name": image.name}
    )
    ElementTree.SubElement(
        series, "AcquisitionDate"
    ).text = image.acquired.isoformat().replace("+00:00", "Z")
    _add_pixels(series, image, planes)
    ElementTree.SubElement(series, "AnnotationRef", {"ID": "Annotation:0"})
    _add_attributes(root, image.attributes)
    declaration = b'<?xml version="1.0" encoding="UTF-8"?>'
    text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)
    return declaration + bytes(text)


def _add_pixels(
    series: ElementTree.Element, image: OmeImage, planes: Sequence[OmePlane]
) -> None:
    """Add the element that says which frame is which image file directory (IFD)."""
    pixels = ElementTree.SubElement(
        series, "Pixels", _pixels_attributes(image, len(planes))
    )
    ElementTree.SubElement(
        pixels, "Channel", {"ID": "Channel:0:0", "SamplesPerPixel": "3"}
    )
    for number in range(len(planes)):
        first = {"FirstC": "0", "FirstT": str(number), "FirstZ": "0"}
        ElementTree.SubElement(
            pixels, "TiffData", {**first, "IFD": str(number), "PlaneCount": "1"}
        )
    for number, plane in enumerate(planes):
        ElementTree.SubElement(pixels, "Plane", _plane_attributes(number, plane))


def _add_attributes(root: ElementTree.Element, attributes: Mapping[str, str]) -> None:
    """Add key and value pairs, which every OME reader shows with the image."""
    annotations = ElementTree.SubElement(root, "StructuredAnnotations")
    pairs = ElementTree.SubElement(
        ElementTree.SubElement(
            annotations,
            "MapAnnotation",
            {"ID": "Annotation:0", "Namespace": "hemascope"},
        ),
        "Value",
    )
    for key, value in attributes.items():
        ElementTree.SubElement(pairs, "M", {"K": key}).text = value


def _pixels_attributes(image: OmeImage, frames: int) -> dict[str, str]:
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYCZT",
        "Type": image.dtype,
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


def _plane_attributes(number: int, plane: OmePlane) -> dict[str, str]:
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
