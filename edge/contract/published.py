"""The names of types in published documents.

A schema is a contract with other people's programs. So a published name stays, even if
the class in this code gets a better one.
"""

from __future__ import annotations

from typing import Any

PUBLISHED_AS = {
    "FailedFrame": "Unseen",
    "Filmstrip": "Strip",
    "GapLine": "Missed",
    "MissingFrames": "Lacking",
    "ResumeCells": "LeftCells",
    "ResumeState": "Left",
    "TrackPrediction": "Course",
}
_REFERENCES = ("#/$defs/", "#/components/schemas/")


def with_published_names(schema: Any) -> Any:
    """Return a JSON Schema, or a part of one, with the published names of its types.

    Names occur in titles, in references, and as the keys of definitions.
    """
    if isinstance(schema, list):
        return [with_published_names(part) for part in schema]
    if isinstance(schema, str) and schema.startswith(_REFERENCES):
        path, _, name = schema.rpartition("/")
        return f"{path}/{PUBLISHED_AS.get(name, name)}"
    if not isinstance(schema, dict):
        return schema
    named = {key: with_published_names(value) for key, value in schema.items()}
    if isinstance(named.get("title"), str):
        named["title"] = PUBLISHED_AS.get(named["title"], named["title"])
    if "$defs" in named:
        named["$defs"] = with_published_keys(named["$defs"])
    return named


def with_published_keys(schemas: dict[str, Any]) -> dict[str, Any]:
    """Return definitions, name to schema, under their published names."""
    return {PUBLISHED_AS.get(name, name): part for name, part in schemas.items()}
