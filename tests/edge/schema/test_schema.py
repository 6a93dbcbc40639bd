from __future__ import annotations

import doctest

import edge.schema


def test_the_worked_example_of_the_schema_holds() -> None:
    result = doctest.testmod(edge.schema)

    assert result.attempted > 5
    assert result.failed == 0
