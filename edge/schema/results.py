"""The result of a frame: the same in the ledger, as MQTT payload, and in the archive.

The JSON Schema in `docs/schema` is generated from these types.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Count = Annotated[int, Meta(ge=0, le=2**53)]  # what JSON readers and SQL can hold
Number = Annotated[int, Meta(ge=1, le=2**53)]
Share = Annotated[float, Meta(ge=0, le=1)]
# `$` alone would let a newline follow in Python; the look-ahead forbids it everywhere.
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Name = Annotated[str, Meta(pattern=r"^(?!archive$)[a-z0-9][a-z0-9-]{0,31}$(?!\n)")]
Epoch = Annotated[str, Meta(pattern=r"^[0-9A-Za-z-]{1,64}$(?!\n)")]
RunId = Annotated[str, Meta(pattern=r"^[0-9TZ]{16}-[0-9a-f]{6}$(?!\n)")]
Status = Literal["ok", "degraded", "rejected", "gap"]

FIRST_PREVIOUS = "0" * 64


class StrictRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a row or message: immutable, refused if a field is unknown."""


ControlName = Literal["exposure", "gain", "white_balance", "gamma"]
BalanceName = Literal["red", "green", "blue"]


class Controls(StrictRecord, frozen=True, kw_only=True):
    """The settings of a camera, read back from its driver, at most a second old.

    `gain`, `balance` (of colours) and `gamma` are in the units of the driver.
    `white_balance_k` is a colour temperature in kelvin. Null is what the driver does
    not report. `automatic` names what the camera changes by itself.
    """

    exposure_ms: float | None = None
    gain: float | None = None
    white_balance_k: float | None = None
    balance: dict[BalanceName, float] = {}
    gamma: float | None = None
    automatic: tuple[ControlName, ...] = ()


class TrackPrediction(StrictRecord, frozen=True, kw_only=True):
    """What the sequence model predicts for a followed cell, from all its frames so far.

    `probabilities` are in the order of `Following.classes`; `label` is the most likely
    class. `frames` counts the frames since the state of the model for this cell was
    new. `is_discontinuous`: frames of this cell are missing just before this one.
    """

    label: str
    probabilities: tuple[Share, ...]
    frames: Number
    is_discontinuous: bool = False


class Filmstrip(StrictRecord, frozen=True, kw_only=True):
    """Pictures of one cell: squares side by side in one JPEG, oldest first.

    `frames` are the driver's numbers of the frames from which they were cut.
    """

    frames: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=12)]
    jpeg: Annotated[bytes, Meta(max_length=16384)]


class Event(StrictRecord, frozen=True, kw_only=True):
    """A change of a followed cell that is confirmed, or that has ended.

    `id` and `track_id` are unique within a ledger. `onset` is the first frame that
    showed the change, `frame` the last one so far. `confidence` is the mean probability
    of `change` between them. `box` is a window around the last position of the cell.
    `reason` says why an event has ended. `strip` shows the cell over time, where the
    row has room for it.
    """

    id: Count
    track_id: Count
    change: str
    phase: Literal["confirmed", "ended"]
    onset: Count
    onset_utc: datetime
    frame: Count
    frames: Number
    confidence: Share
    box: tuple[int, int, int, int]
    reason: str | None = None
    strip: Filmstrip | UnsetType = UNSET


Continuation = Literal[
    "first", "continuous", "discontinuous", "reset", "new field", "new run"
]


class Following(StrictRecord, frozen=True, kw_only=True):
    """How this frame continues the frames before it.

    `tracks` counts the cells that are followed, `coasting` those of them that were not
    found in this frame. `ended` names the tracks that ended. `shift_um`: how far the
    field of view moved since the last followed frame, x and y, null where it could not
    be measured. `pause_s`: time since that frame, null for the first.

    `continuity`: "first"; "continuous"; "discontinuous": frames are missing, states are
    kept; "reset": the pause was too long, or another process resumed the run, and
    states are new; "new field": another field of view, all tracks ended; "new run":
    another run was started, all tracks of the one before ended. `not_followed` counts
    cells beyond the number that may be followed, `dropped` tracks that made room for
    them. No row up to this one has a track from `next_track` on, or an event from
    `next_event` on. `model` and `classes` are those of the sequence model.
    """

    continuity: Continuation
    tracks: Count
    coasting: Count = 0
    ended: tuple[Count, ...] = ()
    shift_um: tuple[float, float] | None = None
    pause_s: Annotated[float, Meta(ge=0)] | None = None
    not_followed: Count = 0
    dropped: Count = 0
    next_track: Count = 1
    next_event: Count = 1
    model: str | None = None
    classes: tuple[str, ...] = ()


Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive


class Cell(StrictRecord, frozen=True, kw_only=True):
    """One region of the frame, and the cell in it.

    `box` is x0, y0, x1, y1 in pixels of the frame, x1 and y1 exclusive. `label` is
    "unidentified" where the model abstained; `confidence` is the highest probability.
    `ontology` is a Cell Ontology id. `track_id` is the same for the same cell in other
    frames, null where cells are not followed or this one is too new. `course` is the
    prediction of the sequence model.
    """

    id: Count
    track_id: Count | None = None
    box: Box
    label: str
    ontology: str | None
    confidence: Share
    probabilities: dict[str, Share]
    abstained: bool
    course: TrackPrediction | UnsetType = (
        UNSET  # takes no bytes where cells are not followed
    )


class FrameRange(StrictRecord, frozen=True, kw_only=True):
    """The frames that a row is about, by the numbers of the driver.

    `passed_over` counts frames before `first` that were not examined because all
    workers were busy. `missed` counts frames that never arrived, null where that cannot
    be known.
    """

    first: Count
    last: Count
    passed_over: Count = 0
    missed: Count | None = 0


class Point(StrictRecord, frozen=True, kw_only=True):
    """Which planned frame this is: number `frame` of point `index`, both from 0.

    `due` is by wall time; the exposure began `late_ms` after it. `expected_s`: planned
    time from the point before to this one, null for the first point and for further
    frames of a point. `next_s`: planned time from this point to the next one, null for
    the last point. `between` counts the frames since the planned one before that were
    not planned: passed over, or skipped by the camera.
    """

    index: Count
    frame: Count = 0
    phase: Count = 0
    due: datetime
    late_ms: float
    expected_s: Annotated[float, Meta(gt=0)] | None = None
    next_s: Annotated[float, Meta(gt=0)] | None = None
    between: Count = 0


class MissedPoints(StrictRecord, frozen=True, kw_only=True):
    """Planned frames that were not taken: `frames`, at points `first` to `last`.

    If `frames` is less than these points have, some frames of `first` were taken.
    """

    first: Count
    last: Count
    frames: Number


class Quality(StrictRecord, frozen=True, kw_only=True):
    """How good the exposure is, measured on the reduced frame.

    `focus`: variance of fine detail, divided by that of the shapes of cells; higher is
    sharper. `saturated`: share of pixels at full scale. `background`: RGB of the
    brightest tenth after correction. `background_delta_e`: its CIE76 distance from the
    calibrated white, null without a calibration. `brightness`: of the brightest tenth
    before correction; 1 is full scale. `motion`: how much the fine detail lies in one
    direction; 0 is alike in all directions. `texture`: standard deviation of the shapes
    of cells, relative to the background. `covered`: share of the frame inside boxes of
    cells. The last four are null in rows of earlier versions.
    """

    focus: Annotated[float, Meta(ge=0)]
    saturated: Share
    background: tuple[float, float, float]
    background_delta_e: Annotated[float, Meta(ge=0)] | None
    brightness: Share | None = None
    motion: Share | None = None
    texture: Annotated[float, Meta(ge=0)] | None = None
    covered: Share | None = None


Fault = Literal[
    "dark", "saturated", "empty", "moving", "blurred", "crowded", "no smear"
]


class Limits(StrictRecord, frozen=True, kw_only=True):
    """A share, and its 95 % confidence limits."""

    share: Share
    low: Share
    high: Share


class ClassShare(StrictRecord, frozen=True, kw_only=True):
    """One class of a differential.

    `exact`: the limits of Clopper and Pearson. `corrected`: the same, corrected for the
    known confusion of the model, and wider by the uncertainty of that confusion; null
    where it is not known. `more`: how many more cells would make the exact limits as
    narrow as wanted.
    """

    label: str
    count: Count
    exact: Limits
    corrected: Limits | None = None
    more: Count


class Differential(StrictRecord, frozen=True, kw_only=True):
    """What was counted on this slide so far, each cell once.

    `of` says which cells the shares refer to; `total` counts these cells. Cells that
    are `unidentified` are not in `total`. `place_um`: position of the frame on its
    patch of the mosaic, x and y, null for a frame that is not on the mosaic. `patches`
    counts the parts of the mosaic that are not joined: the same cell may be on two of
    them. `since`: the first frame or gap after the run was resumed; cells counted
    before are not included. It is null where counting began with the run.
    """

    of: Literal["all cells", "white cells"]
    total: Count
    unidentified: Count
    classes: tuple[ClassShare, ...]
    wanted_width: Share
    patch: Count | None = None
    place_um: tuple[float, float] | None = None
    patches: Count
    since: datetime | None = None


Colour = tuple[float, float, float]


class SeenColours(StrictRecord, frozen=True, kw_only=True):
    """Median colours of one frame after correction, 8-bit RGB.

    `background` is the colour of plasma between the cells, null where cells cover the
    field. `red_cells` and `nuclei` are null where none lies wholly in the frame.
    """

    background: Colour | None
    red_cells: Colour | None
    nuclei: Colour | None


DriftStatus = Literal["good", "amber", "red", "held", "unverified", "uncalibrated"]


class Drift(StrictRecord, frozen=True, kw_only=True):
    """How far the microscope is from its calibration, over the last seconds.

    `background`, `red_cells`, `nuclei`: CIE76 distance from the colour in the
    calibration, or from that of the run's first frames where the calibration has none.
    `sharpness`: focus, relative to that of the first frames. `of` names what differs
    most, `advice` what to do about it, `since` what it is compared with: the
    calibration, or the first frames of the run where that promises nothing. `nuclei` is
    null until enough white cells were seen. `held`: no background was visible for some
    time, so nothing is known. `unverified`: good, calibrated without an empty field.
    """

    status: DriftStatus
    of: Literal["background", "red_cells", "nuclei", "focus"] | None = None
    advice: str | None = None
    since: Literal["calibration", "first frames"] | UnsetType = UNSET
    background: Annotated[float, Meta(ge=0)] | None = None
    red_cells: Annotated[float, Meta(ge=0)] | None = None
    nuclei: Annotated[float, Meta(ge=0)] | None = None
    sharpness: Annotated[float, Meta(ge=0)] | None = None


class FrameResult(StrictRecord, frozen=True, kw_only=True):
    """What was found on one frame, or why it was not examined.

    `camera` is the name of the camera with its serial number, null for recordings;
    `controls` are its settings. `fault` is the reason for which the quality gate
    rejected a frame. `run` is the id of the slide's run; entries start and end runs.
    `cells_found` is there only where more cells were found than `cells` holds: too many
    for a row, or the frame was rejected. Where the pixel size was read off the cells,
    `pixel_size_range_um` are its limits (95 %), for red cells of 7.5 µm that differ by
    6 % from person to person, and `pixel_size_cells` says how many cells there were.
    `filler_bytes`, where there were any, lay between the last pixel of a JPEG and its
    end marker. With a schedule, `point` says which planned frame this is, and
    `missed_points` of a gap says which ones were missed.
    """

    status: Status
    reason: str | None = None
    fault: Fault | None = None
    run: RunId | None = None
    utc: datetime
    monotonic_ns: int
    boot_id: str
    clock_synchronised: bool
    source: str
    camera: str | None = None
    controls: Controls | None = None
    frame: FrameRange
    point: Point | None = None
    missed_points: MissedPoints | None = None
    width_px: Count = 0
    height_px: Count = 0
    filler_bytes: Number | UnsetType = UNSET
    pixel_size_um: Annotated[float, Meta(gt=0)] | None = None
    pixel_size_origin: Literal["profile", "source", "estimated"] | None = None
    pixel_size_range_um: tuple[float, float] | UnsetType = UNSET
    pixel_size_cells: Count | UnsetType = UNSET
    quality: Quality | None = None
    colours: SeenColours | None = None
    drift: Drift | None = None
    model: str | None = None
    locator: str | None = None
    calibration_id: str | None = None
    software: str
    cells: tuple[Cell, ...] = ()
    cells_found: Count | UnsetType = UNSET
    counts: dict[str, Count] = {}
    differential: Differential | None = None
    following: Following | None = None
    events: tuple[Event, ...] = ()
    timings_ms: dict[str, Annotated[float, Meta(ge=0)]] = {}


def cells_found(result: FrameResult) -> int:
    """Return how many cells were found, in the row or not."""
    found = result.cells_found
    return len(result.cells) if isinstance(found, UnsetType) else found


class Result(FrameResult, frozen=True, kw_only=True):
    """One immutable row of a device's ledger.

    `epoch` names the ledger, `seq` counts its rows from 1, `prev` is the sha256 of the
    bytes of the row before. So a missing or altered row is noticed.
    """

    v: Literal[1] = 1
    device: Name
    epoch: Epoch
    seq: Number
    prev: Sha256


class ResultHead(Struct, frozen=True):
    """The fields of a row that its delivery depends on; the others are not read."""

    v: Literal[1]
    device: Name
    epoch: Epoch
    seq: Number
    prev: Sha256
