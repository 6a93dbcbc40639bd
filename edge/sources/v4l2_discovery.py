"""Find the V4L2 cameras of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edge.sources.discovery import FoundCamera, describe_controls
from edge.sources.v4l2 import BY_ID, V4L2Controls, identity

_DEVICES = Path("/dev")


def v4l2_cameras(
    devices: Path = _DEVICES, by_id: Path = BY_ID
) -> Iterator[FoundCamera | str]:
    """Yield each V4L2 device that gives pictures, or why one cannot be asked."""
    for node in sorted(devices.glob("video*"), key=lambda p: (len(p.name), p.name)):
        try:
            controls = V4L2Controls(str(node))
        except OSError as error:
            yield f"{node}: {error.strerror}; join the group video"
            continue
        with closing(controls):
            capability = controls.capability()
            if capability is None or not capability.gives_pictures:
                continue
            address = identity(str(node), by_id)
            about = f"{capability.card} ({capability.driver}, {capability.bus})"
            if address == str(node):
                about += ", no path by id: may be another camera after a restart"
            yield FoundCamera(
                "opencv", f'device = "{address}"', about, describe_controls(controls)
            )
