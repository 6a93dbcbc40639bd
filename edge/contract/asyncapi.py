"""The MQTT contract as an AsyncAPI 3 document, generated from the types.

The document describes a device: what it sends, what it receives, at which quality of
service, retained or not. `tests/flow/test_contract.py` holds live traffic against it.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edge import __version__
from edge.contract.published import with_published_keys, with_published_names
from edge.delivery.announcer import RESPONSE_EXPIRY_S
from edge.ledger.preview_file import MAX_PREVIEW_BYTES
from edge.monitoring.metrics import Metrics
from edge.mqtt import ARCHIVE_STATE, REQUESTS, RESPONSES, topic
from edge.schema.codec import normalise_schema
from edge.schema.entries import Entry
from edge.schema.messages import Ack, ArchiveState, DeviceState
from edge.schema.requests import (
    COMMANDS,
    MAX_REQUEST_BYTES,
    NoteRequest,
    Request,
    Response,
    StartRequest,
)
from edge.schema.results import Result

_BINDING = "0.2.0"
_JPEG = "image/jpeg"


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic; `name` of the last level stands in it where it is one of several."""

    key: str
    address: str
    direction: Literal["send", "receive"]
    messages: tuple[type[msgspec.Struct], ...]
    summary: str
    qos: Literal[0, 1] = 1
    is_retained: bool = False
    expires_s: int | None = None


CHANNELS = (
    Channel(
        "result",
        topic("{device}", "result"),
        "send",
        (Result, Entry),
        "A row of the ledger, the very bytes; sent again until the archive has it.",
    ),
    Channel(
        "ack",
        topic("{device}", "ack"),
        "receive",
        (Ack,),
        "From the archive alone: which rows it holds.",
    ),
    Channel(
        "state",
        topic("{device}", "state"),
        "send",
        (DeviceState,),
        "Whether the device is there, and what is wrong with it; also its last will.",
        is_retained=True,
    ),
    Channel(
        "alarm",
        topic("{device}", "alarm"),
        "send",
        (Entry,),
        "A row of the ledger that is an alarm, at once.",
    ),
    Channel(
        "metrics",
        topic("{device}", "metrics"),
        "send",
        (Metrics,),
        "Figures, once per second; they may be lost.",
        qos=0,
    ),
    Channel(
        "preview",
        topic("{device}", "preview"),
        "send",
        (),
        f"An annotated picture, JPEG of at most {MAX_PREVIEW_BYTES} bytes; off unless "
        "asked for. The user property `seq` is the row that it shows.",
        qos=0,
    ),
    Channel(
        "request",
        topic("{device}", f"{REQUESTS}/{{name}}"),
        "receive",
        (Request, StartRequest, NoteRequest),
        f"Ask for something; at most {MAX_REQUEST_BYTES} bytes, never retained. A "
        "start is a StartRequest, a note a NoteRequest, everything else a Request.",
    ),
    Channel(
        "response",
        topic("{device}", f"{RESPONSES}/{{name}}"),
        "send",
        (Response,),
        "What became of a request.",
        expires_s=RESPONSE_EXPIRY_S,
    ),
    Channel(
        "archive-state",
        ARCHIVE_STATE,
        "receive",
        (ArchiveState,),
        "Whether an archive listens; also its last will.",
        is_retained=True,
    ),
)


def asyncapi_text() -> str:
    """Return the document as it is written to its file."""
    return json.dumps(asyncapi_document(), indent=2, ensure_ascii=False) + "\n"


def asyncapi_document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document."""
    kinds = list(dict.fromkeys(k for c in CHANNELS for k in c.messages))
    _, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schemas = normalise_schema(components)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hemascope device",
            "version": __version__,
            "description": "A microscope that names blood cells, over MQTT 5.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"laboratory": _server()},
        "channels": {channel.key: _channel(channel) for channel in CHANNELS},
        "operations": {channel.key: _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {
                **{kind.__name__: _message(kind) for kind in kinds},
                "Preview": _preview(),
            },
            "schemas": {
                name: _draft_7(schema)
                for name, schema in with_published_keys(
                    with_published_names(schemas)
                ).items()
            },
            "parameters": {
                "device": {
                    "description": "Name of a device: a-z, 0-9 and -, at most 32, not "
                    "`archive`."
                },
                "name": {"enum": list(COMMANDS), "description": "The command."},
            },
        },
    }


def _server() -> dict[str, Any]:
    return {
        "host": "broker.example:8883",
        "protocol": "secure-mqtt",
        "protocolVersion": "5.0",
        "description": "The laboratory's broker; a device is known by its name.",
        "bindings": {
            "mqtt": {
                "cleanSession": True,
                "lastWill": {
                    "topic": topic("{device}", "state"),
                    "qos": 1,
                    "retain": True,
                    "message": "A DeviceState that says offline.",
                },
                "bindingVersion": _BINDING,
            }
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    names = [kind.__name__ for kind in channel.messages] or ["Preview"]
    described: dict[str, Any] = {
        "address": channel.address,
        "description": channel.summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    parameters = {
        name: {"$ref": f"#/components/parameters/{name}"}
        for name in ("device", "name")
        if f"{{{name}}}" in channel.address
    }
    return {**described, "parameters": parameters} if parameters else described


def _operation(channel: Channel) -> dict[str, Any]:
    binding: dict[str, Any] = {"qos": channel.qos, "retain": channel.is_retained}
    if channel.expires_s is not None:
        binding["messageExpiryInterval"] = channel.expires_s
    described: dict[str, Any] = {
        "action": channel.direction,
        "channel": {"$ref": f"#/channels/{channel.key}"},
        "summary": channel.summary,
        "bindings": {"mqtt": {**binding, "bindingVersion": _BINDING}},
    }
    if channel.key == "request":
        described["reply"] = {"channel": {"$ref": "#/channels/response"}}
    return described


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    name = kind.__name__
    described: dict[str, Any] = {
        "name": name,
        "summary": (inspect.getdoc(kind) or "").split("\n\n")[0],
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if issubclass(kind, (Request, Response)):
        described["correlationId"] = {"location": "$message.payload#/id"}
    if issubclass(kind, Request):
        text = {"type": "string", "description": "The asking program's own name."}
        described["headers"] = {"type": "object", "properties": {"client": text}}
    return described


def _preview() -> dict[str, Any]:
    seq = {"type": "string", "pattern": "^[0-9]{1,15}$"}
    return {
        "name": "Preview",
        "contentType": _JPEG,
        "headers": {"type": "object", "properties": {"seq": seq}, "required": ["seq"]},
        "payload": {"type": "string", "contentMediaType": _JPEG},
    }


def _draft_7(schema: Any) -> Any:
    """Write a schema of 2020-12 as AsyncAPI's own, a superset of draft 7."""
    if isinstance(schema, list):
        return [_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {k: _draft_7(v) for k, v in schema.items() if k != "discriminator"}
    if "prefixItems" in plain:
        plain["items"] = plain.pop("prefixItems")
        plain["additionalItems"] = False
    return plain
