"""A GigE Vision camera on loopback: Aravis' own, in a process that can be killed.

There can be one at a time, so it is used in one file of tests alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.settings.sources import GenICamSettings

ADDRESS = "127.0.0.1"
FAKE = GenICamSettings(
    camera="Fake_1", pixel_format="RGB8", width_px=320, height_px=240, rate_hz=50.0
)

_CAMERA = """
import sys
import gi
gi.require_version("Aravis", "0.8")
from gi.repository import Aravis, GLib
serial, features, lost = sys.argv[1:]
camera = Aravis.GvFakeCamera.new_full("127.0.0.1", serial, features or None)
camera.set_property("gvsp-lost-ratio", float(lost))
print("ready" if camera.is_running() else "not running", flush=True)
GLib.MainLoop().run()
"""

# What colour cameras have and Aravis' has not; the values live in the camera's file.
_MORE = """
<Enumeration Name="ExposureAuto"><EnumEntry Name="Off"><Value>0</Value></EnumEntry>
  <EnumEntry Name="Continuous"><Value>2</Value></EnumEntry><Value>2</Value>
</Enumeration>
<Enumeration Name="BalanceWhiteAuto"><EnumEntry Name="Off"><Value>0</Value></EnumEntry>
  <EnumEntry Name="Continuous"><Value>2</Value></EnumEntry><Value>2</Value>
</Enumeration>
<Enumeration Name="BalanceRatioSelector">
  <EnumEntry Name="Red"><Value>0</Value></EnumEntry>
  <EnumEntry Name="Blue"><Value>1</Value></EnumEntry>
  <pValue>BalanceRatioSelectorValue</pValue>
</Enumeration>
<Integer Name="BalanceRatioSelectorValue"><Value>0</Value></Integer>
<Float Name="BalanceRatio"><pIndex>BalanceRatioSelectorValue</pIndex>
  <pValueIndexed Index="0">RatioOfRed</pValueIndexed>
  <pValueIndexed Index="1">RatioOfBlue</pValueIndexed>
  <pValueDefault>RatioOfRed</pValueDefault>
  <Min>0.1</Min><Max>4.0</Max>
</Float>
<Float Name="RatioOfRed"><Value>1.5</Value></Float>
<Float Name="RatioOfBlue"><Value>2.5</Value></Float>
<Boolean Name="GammaEnable"><Value>0</Value></Boolean>
<Float Name="Gamma"><Value>0.7</Value><Min>0.25</Min><Max>4.0</Max></Float>
"""


def needs_aravis() -> None:
    gi = pytest.importorskip("gi", reason="needs hemascope[genicam]")
    try:
        gi.require_version("Aravis", "0.8")
    except ValueError:
        pytest.skip("needs gir1.2-aravis-0.8")


def write_features(path: Path) -> Path:
    """Aravis' description of its camera, with automatics, white balance and gamma."""
    from gi.repository import Aravis

    Aravis.enable_interface("Fake")
    told = Aravis.Camera.new("Fake_1").get_device().get_genicam_xml()
    text = told if isinstance(told, str) else told[0]
    end = text.rindex("</RegisterDescription>")
    path.write_text(text[:end] + _MORE + text[end:])
    return path


@contextmanager
def gige_camera(
    serial: str, features: Path | None = None, lost: float = 0.0
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _CAMERA, serial, str(features or ""), str(lost)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as camera:
        assert camera.stdout is not None
        try:
            assert camera.stdout.readline() == b"ready\n", "is port 3956 in use?"
            yield camera
        finally:
            camera.kill()
