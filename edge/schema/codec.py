"""Bytes to types and back, strictly: the one place where text is parsed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge.bounded_files import read_bounded
from edge.errors import ConfigurationInvalid, HemascopeError
from edge.schema.setting_errors import explain, line_of
from edge.schema.toml_limits import MAX_TOML_BYTES, why_hostile

T = TypeVar("T")
_MAX_JSON_BYTES = 1 << 24  # of a file that is read whole


class PayloadInvalid(HemascopeError):
    """Bytes from outside that are not exactly what their type allows."""


def encode(value: msgspec.Struct) -> bytes:
    """Encode as JSON, UTF-8, in the order of the fields, and check that it decodes.

    Raises
    ------
    PayloadInvalid
        The value contains what JSON cannot carry, such as NaN.
    """
    try:
        data = msgspec.json.encode(value)
        msgspec.json.decode(data, type=type(value))
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise PayloadInvalid(
            f"{type(value).__name__} cannot be written as JSON: {error}; "
            "a number is NaN or infinite, a text no UTF-8, or a field out of its range"
        ) from error
    return data


def decode(data: bytes, kind: type[T]) -> T:
    """Decode one JSON document of type `kind`.

    Raises
    ------
    PayloadInvalid
        Not UTF-8 JSON, too deep, an unknown field, a wrong type or a value out of
        range.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        seen = bytes(data[:60])
        raise PayloadInvalid(
            f"not a valid {getattr(kind, '__name__', kind)}: {error}; it starts "
            f"{seen!r}"
        ) from error


def decode_canonical(data: bytes, kind: type[T]) -> T:
    """Decode what only our own programs write, and refuse other ways to write it.

    A key that occurs twice, or other spacing, would decode as well: it shows that
    another program wrote it.
    """
    value = decode(data, kind)
    if msgspec.json.encode(value) != data:
        raise PayloadInvalid(
            f"a {kind.__name__} must be written as we write it; it starts "
            f"{bytes(data[:60])!r}"
        )
    return value


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file of type `kind`; errors name the file."""
    try:
        return decode(read_bounded(path, _MAX_JSON_BYTES), kind)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path}: cannot be read: {error.strerror}"
        ) from error
    except PayloadInvalid as error:
        raise ConfigurationInvalid(f"{path}: {error}") from error


def read_toml(path: Path, kind: type[T]) -> T:
    """Read a TOML file of type `kind`; errors name the file and the line.

    Relative paths in it are meant from its own folder.
    """
    try:
        text = read_bounded(path, MAX_TOML_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationInvalid(f"{path}: cannot be read: {reason}") from error
    hostile = why_hostile(text)
    if hostile is not None:
        line, sentence = hostile
        raise ConfigurationInvalid(f"{path}:{line}: {sentence}")
    try:
        return msgspec.toml.decode(text, type=kind, dec_hook=_paths_from(path.parent))
    except msgspec.ValidationError as error:
        where, sentence = explain(str(error), msgspec.toml.decode(text), kind)
        line = line_of(text, where)
        raise ConfigurationInvalid(f"{path}:{line}: {sentence}") from error
    except RecursionError as error:
        raise ConfigurationInvalid(
            f"{path}: lists or tables are nested too deep; write them flat"
        ) from error
    except (msgspec.DecodeError, ValueError) as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else len(text.splitlines())
        raise ConfigurationInvalid(f"{path}:{line}: not TOML: {error}") from error


def read_good_parts(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Read those keys of a TOML file that are valid by themselves; never raises.

    For looking at what else is wrong; nothing runs with it.
    """
    try:
        text = read_bounded(path, MAX_TOML_BYTES).decode()
        found = {} if why_hostile(text) else msgspec.toml.decode(text)
    except (OSError, ValueError, RecursionError, msgspec.DecodeError):
        return {}
    good = {}
    for part in msgspec.structs.fields(kind):
        try:
            good[part.name] = msgspec.convert(
                found[part.name], part.type, dec_hook=_paths_from(path.parent)
            )
        except (KeyError, msgspec.ValidationError):
            continue
    return good


def _paths_from(folder: Path) -> Callable[[type[Any], Any], Any]:
    """Return a decoder for paths; relative ones are meant from `folder`."""

    def path_from_here(wanted: type[Any], value: Any) -> Any:
        if wanted is Path and isinstance(value, str):
            return folder / value
        raise TypeError(f"expected a path, got {value!r}")

    return path_from_here


def write_toml(path: Path, settings: msgspec.Struct) -> None:
    """Write settings so that `read_toml` gives them back; what is None is left out."""
    plain = msgspec.to_builtins(settings, enc_hook=str)
    path.write_bytes(msgspec.toml.encode(_without_none(plain)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """JSON Schema (2020-12) of `kind`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **normalise_schema(msgspec.json.schema(kind, schema_hook=_schema_of_path)),
    }


def normalise_schema(schema: Any) -> Any:
    """Return a schema that msgspec made, the same for every release of msgspec.

    Releases differ in three things. Before 0.23, descriptions keep the indentation of
    the docstrings that they come from. Since 0.23, `propertyNames` lists the keys of a
    dict of literals. Before 0.22, null is the first of several choices, not the last.
    """
    if isinstance(schema, list):
        return [normalise_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: normalise_schema(value) for key, value in schema.items()}
    # Fields may have these names too: what stands there is then the schema of a field.
    if isinstance(plain.get("description"), str):
        plain["description"] = inspect.cleandoc(plain["description"])
    if list(plain.get("propertyNames", ())) == ["enum"]:
        del plain["propertyNames"]
    if isinstance(plain.get("anyOf"), list):
        plain["anyOf"].sort(key=lambda choice: choice == {"type": "null"})
    return plain


def _schema_of_path(kind: type[Any]) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string", "description": "A path, from the file's folder."}
    raise NotImplementedError(kind)
