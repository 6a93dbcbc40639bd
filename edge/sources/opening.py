"""Open the source that the settings name."""

from __future__ import annotations

from edge.frames import Source
from edge.settings.sources import AS_FOUND, ControlSettings, SourceSettings
from edge.sources.kinds import kind_of
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
    connect = kind_of(settings).connector(settings)
    return ReconnectingSource(connect, varying=controls_of(settings).automatic)


def controls_of(settings: SourceSettings) -> ControlSettings:
    """Return how the camera shall be set; recordings have nothing to set."""
    controls: ControlSettings = getattr(settings, "controls", AS_FOUND)
    return controls
