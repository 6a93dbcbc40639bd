from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from edge.errors import ConfigurationInvalid
from edge.schema.codec import (
    PayloadInvalid,
    decode,
    decode_canonical,
    encode,
    normalise_schema,
    read_toml,
    schema_of,
    write_toml,
)
from edge.schema.messages import Ack
from edge.schema.results import FIRST_PREVIOUS


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)] = 1
    folder: Path | None = None


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: Inner = msgspec.field(default_factory=Inner)


class Number(msgspec.Struct):
    value: float


ACK = Ack(epoch="e", upto=0, hash=FIRST_PREVIOUS, resume=False)


def test_what_is_encoded_decodes_to_the_same() -> None:
    assert decode_canonical(encode(ACK), Ack) == ACK


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_carry_is_refused(value: float) -> None:
    with pytest.raises(PayloadInvalid, match="NaN"):
        encode(Number(value))


def test_a_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(PayloadInvalid, match="UTF-8"):
        encode(msgspec.structs.replace(ACK, epoch="\udcff"))


HOSTILE = [
    b'{"v":' + b"[" * 100_000,
    b'{"x":' + b'{"x":' * 100_000,
    b"",
    b"[]",
    b"null",
    b"{}",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf" + encode(ACK),
    encode(ACK)[:-1],
    encode(ACK) + b"x",
    encode(ACK).replace(b'"upto":0', b'"upto":-1'),
    encode(ACK).replace(b'"upto":0', b'"upto":1e400'),
    encode(ACK).replace(b'"upto":0', b'"upto":NaN'),
    encode(ACK).replace(b'"upto":0', b'"upto":0,"upto":0'),
    encode(ACK).replace(b'"upto":0', b'"upto": 0'),
    encode(ACK).replace(b'"upto":0', b'"upto":0,"more":1'),
    encode(ACK).replace(b'"resume":false', b'"resume":0'),
    encode(ACK).replace(b"000", b"00g", 1),
    encode(ACK).replace(b'"epoch":"e"', b'"epoch":"\\ud800"'),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_only_what_we_would_write_ourselves_is_an_acknowledgement(data: bytes) -> None:
    with pytest.raises(PayloadInvalid):
        decode_canonical(data, Ack)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_make_decoding_fail_in_another_way(data: bytes) -> None:
    with pytest.raises(PayloadInvalid):
        decode(data, Ack)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name = 1", 1, "`name` is 1, expected a text"),
        ('name = "a"\n\n[inner]\nsize = 0', 4, "a whole number of at least 1"),
        (
            'name = "a"\n\n[inner]\n\nsiez = 1',
            5,
            "`siez` in .inner.; did you mean size",
        ),
        ('name = "a"\nnmae = "b"', 2, "no setting `nmae`; did you mean name?"),
        ('name = "a"\nname = "b"', 2, "not TOML"),
        (
            "[inner]\nsize = 2",
            1,
            "`name` is missing, expected a text",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)

    with pytest.raises(ConfigurationInvalid, match=says) as error:
        read_toml(file, Outer)

    assert f"x.toml:{line}:" in str(error.value)
    assert error.value.exit_code == 78


def test_settings_survive_writing_and_paths_are_meant_from_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "x.toml"
    write_toml(file, Outer("a", Inner(3, Path("beside"))))

    assert read_toml(file, Outer) == Outer("a", Inner(3, tmp_path / "beside"))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="cannot be read"):
        read_toml(tmp_path / "none.toml", Outer)


NULL, NUMBER = {"type": "null"}, {"type": "integer"}
# One type, as msgspec 0.19 to 0.21, 0.22, and 0.23 describe it.
SCHEMAS = [
    {
        "description": "One row.\n\n    `seq` counts\n    from 1.",
        "properties": {"seq": {"anyOf": [NULL, NUMBER]}, "size": {"type": "object"}},
    },
    {
        "description": "One row.\n\n    `seq` counts\n    from 1.",
        "properties": {"seq": {"anyOf": [NUMBER, NULL]}, "size": {"type": "object"}},
    },
    {
        "description": "One row.\n\n`seq` counts\nfrom 1.",
        "properties": {
            "seq": {"anyOf": [NUMBER, NULL]},
            "size": {"type": "object", "propertyNames": {"enum": ["a", "b"]}},
        },
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_is_the_same_for_every_msgspec(schema: dict[str, Any]) -> None:
    assert normalise_schema({"$defs": {"Row": schema}}) == {
        "$defs": {
            "Row": {
                "description": "One row.\n\n`seq` counts\nfrom 1.",
                "properties": {
                    "seq": {"anyOf": [NUMBER, NULL]},
                    "size": {"type": "object"},
                },
            }
        }
    }


class Described(msgspec.Struct):
    """A row.

    Of two lines
    with indentation.
    """

    description: str | None
    names: dict[Annotated[str, Meta(max_length=3)], int]


def test_a_schema_has_no_indentation_and_keeps_its_fields() -> None:
    schema = schema_of(Described)["$defs"]["Described"]

    assert schema["description"] == "A row.\n\nOf two lines\nwith indentation."
    assert schema["properties"]["description"]["anyOf"][-1] == NULL
    assert schema["properties"]["names"]["propertyNames"] == {"maxLength": 3}
