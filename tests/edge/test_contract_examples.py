"""The worked examples of the contracts are run as they stand."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["edge.frames", "edge.engines"])
def test_the_example_of_a_contract_works(module: str) -> None:
    found = doctest.testmod(
        import_module(module),
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )

    assert found.attempted >= 5
    assert found.failed == 0
