"""The example in the contract of frame files works."""

from __future__ import annotations

import doctest

from edge.recording import frame_files


def test_the_example_in_the_contract_works() -> None:
    result = doctest.testmod(frame_files, report=True)

    assert result.attempted >= 10
    assert result.failed == 0
