"""Say what is wrong with a setting: where it is, its value, and what was expected.

msgspec says which type it expected and where, in its own words. It gives neither the
value nor what else is allowed there. So the document and its type are walked side by
side along the path in msgspec's message, and both are read there. No setting is named
in this module: a new one is explained like the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

Path = tuple[str | int, ...]
_MAX_SHOWN = 60  # characters of a value
_MAX_LINE = 500  # characters that are looked at
_NOT_FOUND = object()


def explain(message: str, document: Any, kind: Any) -> tuple[Path, str]:
    """Return where a document is wrong, and a sentence on it.

    Parameters
    ----------
    message
        What msgspec says of the document.
    document
        The document, decoded without a type.
    kind
        The type that it should have.
    """
    reason, path = _parse(message)
    nodes, value = _walk(inspect.type_info(kind), document, path)
    unknown = re.search(r"unknown field `([^`]+)`", reason)
    if unknown:
        return (*path, unknown[1]), _unknown(unknown[1], path, nodes, value)
    missing = re.search(r"missing required field `([^`]+)`", reason)
    if missing:
        return path, _missing(missing[1], path, nodes, value)
    if "`key` in" in message:
        return path, _wrong_key(path, nodes, value)
    is_of_type = re.match("(?i)expected |invalid (enum )?value", reason)
    if is_of_type and nodes and path and value is not _NOT_FOUND:
        return path, _wrong_value(path, nodes, value)
    return path, f"{_table(path)}: {reason}" if path else reason


def line_of(text: str, path: Path) -> int:
    """Return the line of TOML that sets `path` or the table around it; else 1."""
    settings = [*_settings(text)]
    for depth in range(len(path), 0, -1):
        for number, names in settings:
            if names[:depth] == path[:depth]:
                return number
    return 1


def _settings(text: str) -> Iterator[tuple[int, Path]]:
    """Give each line that begins a table or sets a key, with the full path."""
    table: Path = ()
    counts: dict[Path, int] = {}
    for number, whole_line in enumerate(text.splitlines(), 1):
        line = whole_line[:_MAX_LINE]  # the patterns take long over a very long one
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        key = re.match(r"""\s*([\w."'-]+?)\s*=""", line)
        if header:
            table = _names(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield number, table
        elif key:
            yield number, (*table, *_names(key[1]))


def _names(dotted: str) -> Path:
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))


def _parse(message: str) -> tuple[str, Path]:
    """Divide msgspec's message into its reason and its path, such as `$.a.b[0]`."""
    reason, _, place = message.partition(" - at ")
    steps = re.findall(r"\.([^.`\[\]]+)|\[(\d+|\.\.\.)\]", place)
    return reason, tuple(
        name or (int(index) if index.isdigit() else index) for name, index in steps
    )


def _walk(
    root: inspect.Type, document: Any, path: Path
) -> tuple[list[inspect.Type], Any]:
    """Return the types that are allowed at `path`, and the value there."""
    nodes, value = _alternatives(root), document
    for step in path:
        nodes = [
            inner
            for node in _fitting(nodes, value)
            for inner in _alternatives(*_inner(node, step))
        ]
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            value = _NOT_FOUND
    return nodes, value


def _alternatives(*nodes: inspect.Type) -> list[inspect.Type]:
    """Return the members of unions, and other types as they are; without None."""
    flat: list[inspect.Type] = []
    for node in nodes:
        if isinstance(node, inspect.Metadata):
            flat += _alternatives(node.type)
        elif isinstance(node, inspect.UnionType):
            flat += _alternatives(*node.types)
        elif not isinstance(node, inspect.NoneType):
            flat.append(node)
    return flat


def _fitting(nodes: Sequence[inspect.Type], value: Any) -> list[inspect.Type]:
    """Return those types whose tag the table has; all, where none has it."""
    tagged: list[inspect.Type] = [
        node
        for node in nodes
        if isinstance(node, inspect.StructType)
        and isinstance(value, dict)
        and node.tag_field is not None
        and value.get(node.tag_field) == node.tag
    ]
    return tagged or list(nodes)


def _inner(node: inspect.Type, step: str | int) -> list[inspect.Type]:
    """Return the types of a field or an item of a type."""
    if isinstance(node, inspect.StructType):
        if step == node.tag_field:
            return [inspect.LiteralType((node.tag,))]
        return [field.type for field in node.fields if field.encode_name == step]
    if isinstance(node, inspect.DictType):
        return [node.value_type]
    if isinstance(node, inspect.TupleType):
        return [node.item_types[step]] if isinstance(step, int) else []
    if isinstance(node, (inspect.ListType, inspect.VarTupleType)):
        return [node.item_type]
    return []


def _unknown(name: str, path: Path, nodes: Sequence[inspect.Type], value: Any) -> str:
    known = [
        known
        for node in _fitting(nodes, value)
        if isinstance(node, inspect.StructType)
        for known in (node.tag_field, *(field.encode_name for field in node.fields))
        if known is not None
    ]
    where = f" in {_table(path)}" if path else ""
    expected = f"expected one of {', '.join(dict.fromkeys(known))}"
    return (
        f"there is no setting `{name}`{where}; "
        f"{_nearest(name, known) or f'{expected}; take it out or correct its name'}"
    )


def _missing(name: str, path: Path, nodes: Sequence[inspect.Type], value: Any) -> str:
    inner = [i for n in _fitting(nodes, value) for i in _alternatives(*_inner(n, name))]
    where = f" in {_table(path)}" if path else ""
    expected = " or ".join(_expected(inner)) or "it"
    return f"`{name}` is missing{where}, expected {expected}; add a line `{name} = …`"


def _wrong_key(path: Path, nodes: Sequence[inspect.Type], value: Any) -> str:
    keys = [node.key_type for node in nodes if isinstance(node, inspect.DictType)]
    return (
        f"the keys of {_table(path)} are {', '.join(value)}, expected each to be "
        f"{' or '.join(_expected(_alternatives(*keys)))}; change them"
    )


def _wrong_value(path: Path, nodes: Sequence[inspect.Type], value: Any) -> str:
    remedy = _nearest(value, [choice for node in nodes for choice in _choices(node)])
    return (
        f"{_name(path)} is {_shown(value)}, expected {' or '.join(_expected(nodes))}; "
        f"{remedy or 'change it'}"
    )


def _nearest(value: Any, known: Iterable[Any]) -> str | None:
    names = {str(choice): choice for choice in known}
    near = get_close_matches(str(value), names, n=2)
    return f"did you mean {' or '.join(near)}?" if near else None


def _choices(node: inspect.Type) -> tuple[Any, ...]:
    if isinstance(node, inspect.LiteralType):
        return tuple(node.values)
    if isinstance(node, inspect.EnumType):
        return tuple(member.value for member in node.cls)
    return ()


def _expected(nodes: Sequence[inspect.Type]) -> list[str]:
    """Describe the types that are allowed, names that may be chosen as one list."""
    choices = dict.fromkeys(str(c) for node in nodes for c in _choices(node))
    described = [_described(node) for node in nodes if not _choices(node)]
    listed = [f"one of {', '.join(choices)}"] if len(choices) > 1 else [*choices]
    return [*listed, *dict.fromkeys(described)]


def _described(node: inspect.Type) -> str:
    """Describe one type in plain words."""
    if isinstance(node, inspect.IntType):
        return f"a whole number{_range(node)}"
    if isinstance(node, inspect.FloatType):
        return f"a number{_range(node)}"
    if isinstance(node, inspect.StrType):
        return f"a text{_form(node)}"
    if isinstance(node, inspect.TupleType):
        items = _alternatives(*node.item_types)
        return f"{len(node.item_types)} values, each {' or '.join(_expected(items))}"
    if isinstance(node, (inspect.ListType, inspect.VarTupleType)):
        items = _alternatives(node.item_type)
        return f"a list, each item {' or '.join(_expected(items))}"
    if isinstance(node, inspect.CustomType):
        return f"a {node.cls.__name__.lower()} in quotes"
    names = {
        inspect.BoolType: "true or false",
        inspect.StructType: "a table",
        inspect.DictType: "a table",
    }
    return names.get(type(node), "another value")


def _range(node: inspect.IntType | inspect.FloatType) -> str:
    if node.ge is not None and node.le is not None:
        return f" from {node.ge:.9g} to {node.le:.9g}"
    bounds = {
        "above": node.gt,
        "of at least": node.ge,
        "below": node.lt,
        "of at most": node.le,
    }
    known = [
        f"{word} {bound:.9g}" for word, bound in bounds.items() if bound is not None
    ]
    return f" {' and '.join(known)}" if known else ""


def _form(node: inspect.StrType) -> str:
    parts = []
    if node.min_length is not None:
        parts.append(f"at least {node.min_length} characters")
    if node.max_length is not None:
        parts.append(f"at most {node.max_length} characters")
    if node.pattern is not None:
        parts.append(f"the form {node.pattern}")
    return f" of {', '.join(parts)}" if parts else " in quotes"


def _shown(value: Any) -> str:
    """Write a value as TOML does, cut short."""
    if isinstance(value, (str, bool)):
        text = msgspec.json.encode(value).decode()
    else:
        text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _name(path: Path) -> str:
    """Name a key, and the table that it is in."""
    *table, key = _keys(path)
    return f"`{key}` of {_table(table)}" if table else f"`{key}`"


def _table(path: Sequence[str | int]) -> str:
    """Name a table as TOML does."""
    return f"[{'.'.join(_keys(path))}]"


def _keys(path: Sequence[str | int]) -> list[str]:
    return [step for step in path if isinstance(step, str) and step != "..."]
