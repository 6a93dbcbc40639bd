"""What is said of a frame, as it travels: ledger row, MQTT payload, archive row.

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
    """How a camera was set, read back from its driver, at most a second old.

    `gain`, `balance` (of colours) and `gamma` are in the driver's own units;
    `white_balance_k` is a colour temperature. Null is what the driver does not tell.
    `automatic` names what the camera changes by itself.
    """

    exposure_ms: float | None = None
    gain: float | None = None
    white_balance_k: float | None = None
    balance: dict[BalanceName, float] = {}
    gamma: float | None = None
    automatic: tuple[ControlName, ...] = ()


class TrackPrediction(StrictRecord, frozen=True, kw_only=True):
    """What the sequence model says of a followed cell, from all it saw of it so far.

    `probabilities` are in the order of `Following.classes`; `label` is the likeliest.
    `frames` counts those it saw since its state was new; `is_discontinuous`: frames of
    this cell are missing just before this one.
    """

    label: str
    probabilities: tuple[Share, ...]
    frames: Number
    is_discontinuous: bool = False


class Filmstrip(StrictRecord, frozen=True, kw_only=True):
    """Pictures of one cell: squares side by side in one JPEG, oldest first.

    `frames` are the driver's numbers of the frames they were cut from.
    """

    frames: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=12)]
    jpeg: Annotated[bytes, Meta(max_length=16384)]


class Event(StrictRecord, frozen=True, kw_only=True):
    """Something happened to a followed cell, and is confirmed or over.

    `id` and `track_id` are unique within a ledger. `onset` is the frame that first
    showed it, `frame` the one that said so last; `confidence` is the mean probability
    of `change` between them. `box` is a window around the cell, where it was last.
    `reason` says why an event is over. `strip` shows the cell over time, where
    the row has room for it.
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
    """How this frame continues the ones before.

    `tracks` counts the cells that are followed, `coasting` those of them not found
    here; `ended` names tracks that are over. `shift_um`: how far the field moved since
    the last followed frame, x and y, null where nobody could tell. `pause_s`: time
    since that frame, null for the first.

    `continuity`: "first"; "continuous"; "discontinuous": frames are missing, states are
    kept; "reset": the pause was too long, or another process goes on with the run, and
    states are new; "new field": another place, all tracks ended; "new run": another run
    was started, all tracks of the one before ended. `not_followed` counts cells beyond
    the number that may be followed, `dropped` tracks that made room for them. Tracks
    from `next_track` and events from `next_event` on are not in this row or an earlier
    one. `model` and `classes`: the sequence model's.
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
    """One region and what it holds.

    `box` is x0, y0, x1, y1 in pixels of the frame, x1 and y1 exclusive. `label` is
    "unidentified" where the model abstained; `confidence` is the highest probability.
    `ontology` is a Cell Ontology id. `track_id` names the same cell in other frames,
    null where cells are not followed or this one is too new; `course` is what the
    sequence model says of it.
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
        UNSET  # costs nothing where cells are not followed
    )


class FrameRange(StrictRecord, frozen=True, kw_only=True):
    """The driver's numbers of the frames a row speaks of.

    `passed_over` counts frames that came before `first` and were not looked at because
    everybody was busy; `missed` those that never came, null where nobody can know.
    """

    first: Count
    last: Count
    passed_over: Count = 0
    missed: Count | None = 0


class Point(StrictRecord, frozen=True, kw_only=True):
    """Which planned frame this is: number `frame` of point `index`, both from 0.

    `due` by wall time; `late_ms`: so long afterwards the exposure began. `expected_s`:
    how long after the point before this one is due, null for the first and for further
    frames of a point; `next_s`: how long after this point the next one is due, null for
    the last. `between` counts frames since the planned one before that nobody wanted:
    passed over, or skipped by the camera.
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
    """Planned frames that were not taken: so many, at points `first` to `last`.

    Where `frames` is less than a point has, some of `first` were taken.
    """

    first: Count
    last: Count
    frames: Number


class Quality(StrictRecord, frozen=True, kw_only=True):
    """How good the exposure is, by the reduced frame.

    `focus`: variance of fine detail over that of the shapes of cells, higher is
    sharper; `saturated`: share of pixels at full scale; `background`: RGB of the
    brightest tenth after correction; `background_delta_e`: its CIE76 distance from the
    calibrated white, null without a calibration. `brightness`: of the brightest tenth
    before correction, 1 is full scale; `motion`: how much fine detail lies in one
    direction, 0 is in all alike; `texture`: standard deviation of the shapes of cells
    over the background; `covered`: share of the frame inside boxes of cells. These are
    null in rows of earlier versions.
    """

    focus: Annotated[float, Meta(ge=0)]
    saturated: Share
    background: tuple[float, float, float]
    background_delta_e: Annotated[float, Meta(ge=0)] | None
    brightness: Share | None = None
    motion: Share | None = None
    texture: Annotated[float, Meta(ge=0)] | None = None
    covered: Share | None = None


Fault = Literal["dark", "saturated", "empty", "moving", "blurred", "crowded"]


class Limits(StrictRecord, frozen=True, kw_only=True):
    """A share and the limits that hold the true one with 95 % probability."""

    share: Share
    low: Share
    high: Share


class ClassShare(StrictRecord, frozen=True, kw_only=True):
    """One class of a differential.

    `exact`: Clopper and Pearson's limits. `corrected`: with the model's known confusion
    taken back, and widened by how well that is known; null where nobody told it.
    `more`: so many more cells make the exact limits as narrow as is wanted.
    """

    label: str
    count: Count
    exact: Limits
    corrected: Limits | None = None
    more: Count


class Differential(StrictRecord, frozen=True, kw_only=True):
    """What was counted on this slide so far, each cell once.

    `of` says what shares are of; `total` counts those cells, `unidentified` ones are
    beside it. `place_um`: where the frame lies on its patch of the mosaic, x and y;
    null for a frame that was not laid on it. `patches` are the parts of the mosaic that
    are not joined: a cell of one may be a cell of another. `since`: the first frame or
    gap since the run was resumed, and what was counted before is not in here; null
    counts from its start.
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

    `background` is that of plasma between the cells, null where cells cover the field;
    `red_cells` and `nuclei` are null where none is whole.
    """

    background: Colour | None
    red_cells: Colour | None
    nuclei: Colour | None


DriftStatus = Literal["good", "amber", "red", "held", "unverified", "uncalibrated"]


class Drift(StrictRecord, frozen=True, kw_only=True):
    """How far the microscope is from its calibration, over the last seconds.

    `background`, `red_cells`, `nuclei`: CIE76 distance from what the calibration
    promises, or from the run's first frames where it promises nothing; `sharpness`:
    focus beside that of the first frames. `of` names what is worst, `advice` what to do
    about it. `held`: no background was visible for a while, so nothing is known;
    `unverified`: good, but calibrated without an empty field.
    """

    status: DriftStatus
    of: Literal["background", "red_cells", "nuclei", "focus"] | None = None
    advice: str | None = None
    background: Annotated[float, Meta(ge=0)] | None = None
    red_cells: Annotated[float, Meta(ge=0)] | None = None
    nuclei: Annotated[float, Meta(ge=0)] | None = None
    sharpness: Annotated[float, Meta(ge=0)] | None = None


class FrameResult(StrictRecord, frozen=True, kw_only=True):
    """What one frame showed, or why it showed nothing.

    `camera` is the camera's name with its serial, null for recordings; `controls` is
    how it was set. `fault` names why the quality gate rejected a frame. `run` is the id
    of the slide's run, which entries start and end. Where frames are planned, `point`
    says which one this is, and a gap which were missed.
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
    pixel_size_um: Annotated[float, Meta(gt=0)] | None = None
    pixel_size_origin: Literal["profile", "source", "estimated"] | None = None
    quality: Quality | None = None
    colours: SeenColours | None = None
    drift: Drift | None = None
    model: str | None = None
    locator: str | None = None
    calibration_id: str | None = None
    software: str
    cells: tuple[Cell, ...] = ()
    counts: dict[str, Count] = {}
    differential: Differential | None = None
    following: Following | None = None
    events: tuple[Event, ...] = ()
    timings_ms: dict[str, Annotated[float, Meta(ge=0)]] = {}


class Result(FrameResult, frozen=True, kw_only=True):
    """One immutable row of a device's ledger.

    `epoch` names the ledger, `seq` counts its rows from 1, `prev` is the sha256 of the
    bytes of the row before, so a missing or altered row shows.
    """

    v: Literal[1] = 1
    device: Name
    epoch: Epoch
    seq: Number
    prev: Sha256


class ResultHead(Struct, frozen=True):
    """The fields of a result that its delivery depends on; the others are not read."""

    v: Literal[1]
    device: Name
    epoch: Epoch
    seq: Number
    prev: Sha256
