"""Find GenICam cameras on the network and on USB, and open one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from edge.errors import ConfigurationInvalid, HemascopeError
from edge.frames import SourceLost
from edge.import_faults import library_fault
from edge.sources.discovery import FoundCamera

_FAKE = "Fake_"  # Aravis' own camera, in memory


def aravis() -> Any:
    """Import Aravis' bindings, which come from the system.

    Raises
    ------
    ConfigurationInvalid
        They or PyGObject are not installed.
    """
    try:
        import gi

        gi.require_version("Aravis", "0.8")
        from gi.repository import Aravis
    except (ImportError, ValueError) as error:
        raise ConfigurationInvalid(
            f"Aravis is not available to Python ({library_fault(error) or error}); run "
            "`apt-get install gir1.2-aravis-0.8 python3-gi`, or for a virtual "
            "environment `pip install '.[genicam]'` in the project's folder beside "
            "gir1.2-aravis-0.8"
        ) from error
    return Aravis


def failure() -> type[Exception]:
    """Return the class of the errors that Aravis raises."""
    from gi.repository import GLib

    error: type[Exception] = GLib.GError
    return error


class ConnectedCamera(NamedTuple):
    """A camera that answers: any of `id`, `serial` and `address` names it."""

    id: str
    serial: str
    address: str
    protocol: str


def answering(aravis: Any) -> list[ConnectedCamera]:
    """Return the cameras that answer; asking the network takes a second."""
    aravis.update_device_list()
    return [
        ConnectedCamera(
            aravis.get_device_id(n) or "",
            aravis.get_device_serial_nbr(n) or "",
            aravis.get_device_address(n) or "",
            aravis.get_device_protocol(n) or "",
        )
        for n in range(aravis.get_n_devices())
    ]


def genicam_cameras() -> Iterator[FoundCamera | str]:
    """Yield each GenICam camera that answers on the network and on USB."""
    try:
        found = answering(aravis())
    except HemascopeError as error:
        yield str(error)
        return
    for camera in found:
        serial = camera.serial or "unknown"
        about = f"{camera.protocol}, serial {serial}, {camera.address}"
        yield FoundCamera("genicam", f'camera = "{camera.id}"', about.rstrip(", "))


def open_camera(aravis: Any, wanted: str | None) -> Any:
    """Open the camera of that id, serial or address; without, the only one there is.

    Raises
    ------
    SourceLost
        None is named and not exactly one answers. Other faults are Aravis' own.
    """
    if wanted is not None:
        if wanted.startswith(_FAKE):
            aravis.enable_interface("Fake")
        try:
            return aravis.Camera.new(wanted)
        except failure():
            fitting = [one.id for one in answering(aravis) if wanted == one.serial]
            if not fitting:
                raise
            return aravis.Camera.new(fitting[0])
    found = answering(aravis)
    if len(found) != 1:
        ids = ", ".join(one.id for one in found) or "none"
        raise SourceLost(
            f"{len(found)} GenICam cameras answer ({ids}), expected one; connect it, "
            "or name it by camera in [source]"
        )
    return aravis.Camera.new(found[0].id)
