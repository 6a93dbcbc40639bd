"""The profile: the calibration of one camera on one microscope, measured once, frozen.

A folder with `profile.json` and, where the light is uneven, `flat_field.npy`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from edge import __version__
from edge.artifacts.array_files import read_array
from edge.bounded_files import read_bounded
from edge.errors import HemascopeError
from edge.schema.codec import encode, read_json
from edge.schema.pixel_sizes import why_not_sensible
from edge.schema.results import Controls

Row4 = tuple[float, float, float, float]
Matrix = tuple[Row4, Row4, Row4]


def offset_alone(density: float) -> Matrix:
    """Return the matrix that adds an optical density to every channel alike."""
    return (
        (1.0, 0.0, 0.0, density),
        (0.0, 1.0, 0.0, density),
        (0.0, 0.0, 1.0, density),
    )


IDENTITY = offset_alone(0.0)


_MAX_FLAT_BYTES = 1 << 29  # 44 million pixels of float32 in three colours
Density = tuple[float, float, float]


class ProfileMismatch(HemascopeError):
    """The profile belongs to another camera, another frame size, or is damaged."""

    exit_code = 78


class ReferenceRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """How a slide was brought to the reference look, by the medians of its cells.

    Densities are optical, base 10, RGB, above plasma, before the
    map; `matrix` (3, 3) takes them to the reference. `cells` and `nuclei` were located.
    """

    red_cell_density: Density
    nucleus_density: Density | None
    cells: Annotated[int, Meta(ge=0)]
    nuclei: Annotated[int, Meta(ge=0)]
    matrix: tuple[Density, Density, Density]


class ConfidenceRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """How far the model's confidence is off in this laboratory, from reviewed cells.

    `model` is the sha256 of the ONNX file that it was measured with. `scale` and `bias`
    adapt the logarithms of its probabilities of `classes`; `abstain_below` replaces the
    model's own threshold where it is given. `cells` were reviewed; `saved` is what
    adapting saves on cells that it was not fitted to, nats per cell; `errors` are the
    calibration errors before and after, on all of them.
    """

    model: str
    classes: tuple[str, ...]
    scale: tuple[Annotated[float, Meta(gt=0)], ...]
    bias: tuple[float, ...]
    abstain_below: Annotated[float, Meta(ge=0, le=1)] | None
    cells: Annotated[int, Meta(ge=0)]
    saved: float
    errors: tuple[float, float]


class ProfileRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """`profile.json`.

    `black_level` and `white_point` are sensor counts, the latter above black where
    `flat_field` is 1; None is the full scale of the frame's type. `matrix` (3, 4) maps
    optical density (base 10, RGB) to that of the reference look; its last column is an
    offset, so an empty field comes out as 255 * 10**-offset. `flat_field_sha256` is
    that of `flat_field.npy`, None where the light is even. `is_verified` is false where
    no empty field was seen and flat field and white point were read off frames with
    cells. `reference` says where `matrix` comes from; `confidence` adapts what the
    model says here; `controls` is how the camera was set; `previous` is the calibration
    that this one replaced.
    """

    format: Literal[1] = 1
    camera_serial: str | None = None
    objective: str | None = None
    width_px: Annotated[int, Meta(gt=0)] | None = None
    height_px: Annotated[int, Meta(gt=0)] | None = None
    black_level: Annotated[float, Meta(ge=0)] = 0.0
    white_point: tuple[float, float, float] | None = None
    matrix: Matrix = IDENTITY
    pixel_size_um: float | None = None
    flat_field_sha256: str | None = None
    is_verified: bool = True
    reference: ReferenceRecord | None = None
    confidence: ConfidenceRecord | None = None
    controls: Controls | UnsetType = UNSET  # UNSET keeps the ids of older profiles
    previous: str | None = None
    created_at: datetime = datetime(1970, 1, 1, tzinfo=timezone.utc)
    software_version: str = __version__


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A profile in memory.

    `flat_field` (h, w, 3) float32, unitless: the share of `white_point` that an empty
    field shows there. Its grid may be coarser than the frame; it spans the frame and is
    read with bilinear interpolation. `calibration_id` is the sha256 over record and
    flat field, None for the identity.
    """

    record: ProfileRecord
    flat_field: NDArray[np.float32] | None
    calibration_id: str | None

    def check(self, width_px: int, height_px: int, camera: str | None) -> None:
        """Refuse frames that this profile was not measured for.

        The `camera` of a recording is unknown (None): only the frame size is compared.

        Raises
        ------
        ProfileMismatch
            The frame size or the camera serial differs.
        """
        wanted = (self.record.width_px, self.record.height_px)
        if wanted != (None, None) and wanted != (width_px, height_px):
            raise ProfileMismatch(
                f"frame is {width_px}x{height_px} px, the profile was measured at "
                f"{wanted[0]}x{wanted[1]}; set the camera back or calibrate again"
            )
        serial = self.record.camera_serial
        if serial is not None and camera is not None and serial not in camera:
            raise ProfileMismatch(
                f"camera {camera!r} is not camera {serial!r} of the profile; "
                "choose that camera's profile or calibrate this one"
            )


IDENTITY_PROFILE = Profile(ProfileRecord(), None, None)


def save_profile(
    folder: Path, record: ProfileRecord, flat_field: NDArray[np.float32] | None = None
) -> Profile:
    """Write a profile folder and return it as loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    if flat_field is not None:
        np.save(folder / "flat_field.npy", flat_field.astype(np.float32))
        data = (folder / "flat_field.npy").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        record = msgspec.structs.replace(record, flat_field_sha256=digest)
    (folder / "profile.json").write_bytes(msgspec.json.format(encode(record)))
    return load_profile(folder)


def load_profile(folder: Path) -> Profile:
    """Load a profile folder.

    Raises
    ------
    ConfigurationInvalid
        `profile.json` is missing or is not a valid record of a profile.
    ProfileMismatch
        The flat field is missing, altered, or holds values that no light gives; or no
        microscope has the pixel size.
    """
    record = read_json(folder / "profile.json", ProfileRecord)
    values = np.array([*record.matrix[0], *record.matrix[1], *record.matrix[2]])
    white = np.array(record.white_point or (1.0, 1.0, 1.0))
    if (
        not np.isfinite(values).all()
        or not np.isfinite(white).all()
        or (white <= 0).any()
    ):
        raise ProfileMismatch(
            f"{folder}: matrix and white_point must be finite and the white point "
            f"above 0, it is {record.white_point}; calibrate again"
        )
    um = record.pixel_size_um
    refused = None if um is None else why_not_sensible(um)
    if refused is not None:
        raise ProfileMismatch(f"{folder}: {refused}: calibrate the scale again")
    flat = None
    content = encode(record)
    if record.flat_field_sha256 is not None:
        flat = _load_flat_field(folder / "flat_field.npy", record.flat_field_sha256)
    return Profile(record, flat, hashlib.sha256(content).hexdigest())


def _load_flat_field(path: Path, sha256: str) -> NDArray[np.float32]:
    try:
        data = read_bounded(path, _MAX_FLAT_BYTES)
    except OSError as error:
        raise ProfileMismatch(f"{path}: {error.strerror}; calibrate again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ProfileMismatch(
            f"{path}: its sha256 is not {sha256[:12]}… as profile.json says; the file "
            "was altered or damaged, restore it or calibrate again"
        )
    try:
        flat: NDArray[Any] = read_array(data, _MAX_FLAT_BYTES)
    except ValueError as error:
        raise ProfileMismatch(
            f"{path}: not an array ({error}); calibrate again"
        ) from error
    is_flat = flat.ndim == 3 and flat.shape[2] == 3 and flat.size > 0
    if not is_flat or flat.dtype.kind != "f" or not np.isfinite(flat).all():
        raise ProfileMismatch(
            f"{path}: {flat.dtype} {flat.shape}, expected finite numbers (h, w, 3)"
        )
    if flat.min() <= 0.02:
        raise ProfileMismatch(
            f"{path}: its darkest value is {flat.min():.3f} of the white point, "
            "expected above 0.02; the field was not lit, calibrate again"
        )
    return np.ascontiguousarray(flat, np.float32)
