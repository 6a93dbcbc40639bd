"""The kinds of camera, one entry each; there is no other list of kinds.

A kind is what `kind` in [source] names. Its entry says how it is opened and how
connected cameras of it are found; `run`, `hemascope cameras`, `hemascope doctor` and
the calibration use the entry, so a new kind is added here and in no other list. A
driver is imported when it is used: a device without PyGObject still opens a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from edge.frames import Source
from edge.settings.sources import (
    FolderSettings,
    GenICamSettings,
    GStreamerSettings,
    MicroManagerSettings,
    OpenCVSettings,
    SimulatedSettings,
    SourceSettings,
    VideoSettings,
)
from edge.sources.discovery import FoundCamera

S = TypeVar("S", bound=SourceSettings)

Connect = Callable[[], Source]
Cameras = Iterator[FoundCamera | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind(Generic[S]):
    """One kind of camera.

    Parameters
    ----------
    settings
        The class of its settings. Its tag is the word that `kind` takes.
    title
        What people call it.
    connector
        Imports the driver and returns the function that opens the device. That
        function is called again after each loss of the device.
    find_connected
        Yields what is connected to this machine, or a line why nobody can tell; None
        where it cannot be asked without settings.
    find_configured
        Yields the cameras that settings reach; None where `find_connected` tells all.
    is_simulated
        Whether what it shows is made up.
    """

    settings: type[S]
    title: str
    connector: Callable[[S], Connect]
    find_connected: Callable[[], Cameras] | None = None
    find_configured: Callable[[S], Cameras] | None = None
    is_simulated: bool = False

    @property
    def name(self) -> str:
        """The word that `kind` in [source] takes."""
        return str(self.settings.__struct_config__.tag)


def kind_of(settings: SourceSettings) -> SourceKind[Any]:
    """Return the kind that settings belong to."""
    return KINDS[str(settings.__struct_config__.tag)]


def connected_cameras(
    given: Iterable[SourceSettings] = (),
) -> list[tuple[str, Cameras]]:
    """Return the cameras of every kind that can be asked, by the kind's title.

    Parameters
    ----------
    given
        Settings of kinds that can only be asked with settings.
    """
    found = [
        (kind.title, kind.find_connected())
        for kind in KINDS.values()
        if kind.find_connected is not None
    ]
    for settings in given:
        kind = kind_of(settings)
        if kind.find_configured is not None:
            found.append((kind.title, kind.find_configured(settings)))
    return found


def _simulated(settings: SimulatedSettings) -> Connect:
    from edge.simulation.microscope import SimulatedMicroscope

    # One microscope for all connections: its slide outlives a pulled cable.
    return SimulatedMicroscope(settings).connect


def _opencv(settings: OpenCVSettings) -> Connect:
    from edge.sources.opencv.source import OpenCVSource

    return partial(OpenCVSource, settings)


def _v4l2_cameras() -> Cameras:
    from edge.sources.v4l2_discovery import v4l2_cameras

    return v4l2_cameras()


def _gstreamer(settings: GStreamerSettings) -> Connect:
    from edge.sources.gstreamer.source import GStreamerSource

    return partial(GStreamerSource, settings)


def _genicam(settings: GenICamSettings) -> Connect:
    from edge.sources.genicam.source import GenICamSource

    return partial(GenICamSource, settings)


def _genicam_cameras() -> Cameras:
    from edge.sources.genicam.discovery import genicam_cameras

    return genicam_cameras()


def _micromanager(settings: MicroManagerSettings) -> Connect:
    from edge.sources.micromanager.source import MicroManagerSource

    return partial(MicroManagerSource, settings)


def _micromanager_cameras(settings: MicroManagerSettings) -> Cameras:
    from edge.sources.micromanager.discovery import micromanager_cameras

    return micromanager_cameras(settings)


def _video(settings: VideoSettings) -> Connect:
    from edge.sources.opencv.source import OpenCVSource

    file = OpenCVSettings(
        device=str(settings.path), pixel_size_um=settings.pixel_size_um
    )
    return partial(OpenCVSource, file)


def _folder(settings: FolderSettings) -> Connect:
    from edge.sources.folder import FolderSource

    return partial(FolderSource, settings)


_ALL: tuple[SourceKind[Any], ...] = (
    SourceKind(
        settings=SimulatedSettings,
        title="simulated microscope",
        connector=_simulated,
        is_simulated=True,
    ),
    SourceKind(
        settings=OpenCVSettings,
        title="V4L2",
        connector=_opencv,
        find_connected=_v4l2_cameras,
    ),
    SourceKind(settings=GStreamerSettings, title="GStreamer", connector=_gstreamer),
    SourceKind(
        settings=GenICamSettings,
        title="GenICam",
        connector=_genicam,
        find_connected=_genicam_cameras,
    ),
    SourceKind(
        settings=MicroManagerSettings,
        title="Micro-Manager",
        connector=_micromanager,
        find_configured=_micromanager_cameras,
    ),
    SourceKind(settings=VideoSettings, title="video file", connector=_video),
    SourceKind(settings=FolderSettings, title="folder of images", connector=_folder),
)
KINDS = {kind.name: kind for kind in _ALL}
