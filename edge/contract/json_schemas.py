"""JSON Schemas of all messages and files, generated from the types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge.artifacts.bundle import BundleRecord
from edge.artifacts.profile import ProfileRecord
from edge.contract.asyncapi import asyncapi_text
from edge.contract.published import with_published_names
from edge.doctor.findings import Report
from edge.monitoring.metrics import Metrics
from edge.pipeline.images.image_lines import ImageLine
from edge.recording.format import Frame, Head, Line
from edge.schema.codec import schema_of
from edge.schema.entries import Entry
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.schema.requests import NoteRequest, Request, Response, StartRequest
from edge.schema.results import Result
from edge.settings.files import ArchiveFile, DeviceFile, ReplaySettings

ASYNCAPI = "asyncapi.json"
PUBLISHED: dict[str, Any] = {
    "result": Result,
    "entry": Entry,
    "ack": Ack,
    "device-state": DeviceState,
    "archive-state": ArchiveState,
    "metrics": Metrics,
    "request": Request,
    "start-request": StartRequest,
    "note-request": NoteRequest,
    "response": Response,
    "bundle": BundleRecord,
    "profile": ProfileRecord,
    "device-file": DeviceFile,
    "archive-file": ArchiveFile,
    "replay-file": ReplaySettings,
    "recording": Head,
    "recording-frame": Frame,
    "recording-line": Line,
    "classify-line": ImageLine,
    "doctor-report": Report,
}


def schema_text(name: str) -> str:
    """Return the schema of `name` as the text of its file."""
    return json.dumps(with_published_names(schema_of(PUBLISHED[name])), indent=2) + "\n"


def write_schemas(folder: Path) -> str:
    """Write all schemas and the AsyncAPI document to `folder`; say what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        (folder / f"{name}.json").write_text(schema_text(name), encoding="utf-8")
    (folder / ASYNCAPI).write_text(asyncapi_text(), encoding="utf-8")
    return f"{len(PUBLISHED)} schemas and {ASYNCAPI}"
