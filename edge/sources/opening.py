"""Open the source that the settings name."""

from __future__ import annotations

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
from edge.sources.reconnecting import ReconnectingSource


def open_source(settings: SourceSettings) -> Source:
    """Open a source that survives the loss of its device.

    Raises
    ------
    SourceLost
        It cannot be opened now, at the start.
    ConfigurationInvalid
        It can never be opened as written.
    """
    match settings:
        case SimulatedSettings():
            from edge.simulation.microscope import SimulatedMicroscope

            return ReconnectingSource(SimulatedMicroscope(settings).connect)
        case OpenCVSettings():
            from edge.sources.opencv import OpenCVSource

            return ReconnectingSource(
                lambda: OpenCVSource(settings), varying=settings.controls.automatic
            )
        case VideoSettings():
            from edge.sources.opencv import OpenCVSource

            file = OpenCVSettings(
                device=str(settings.path), pixel_size_um=settings.pixel_size_um
            )
            return ReconnectingSource(lambda: OpenCVSource(file))
        case GStreamerSettings():
            from edge.sources.gstreamer import GStreamerSource

            return ReconnectingSource(
                lambda: GStreamerSource(settings), varying=settings.controls.automatic
            )
        case GenICamSettings():
            from edge.sources.genicam.source import GenICamSource

            return ReconnectingSource(
                lambda: GenICamSource(settings), varying=settings.controls.automatic
            )
        case MicroManagerSettings():
            from edge.sources.micromanager.source import MicroManagerSource

            return ReconnectingSource(
                lambda: MicroManagerSource(settings),
                varying=settings.controls.automatic,
            )
        case FolderSettings():
            from edge.sources.folder import FolderSource

            return ReconnectingSource(lambda: FolderSource(settings))
