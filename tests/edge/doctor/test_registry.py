"""A check has a function, a line in the registry, a test, and a line in the docs."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import get_type_hints

import pytest

import edge.doctor.checks
from edge.doctor.device import ExaminedDevice
from edge.doctor.findings import Finding
from edge.doctor.registry import CHECKS, Check
from tests.broken import BROKEN, PAGE

# Nobody can break the machine that runs the tests. Their judgement is tested instead,
# in `test_doctor.py`, with what such a machine would say.
OF_THE_MACHINE = {"clock", "temperature", "power", "versions"}


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_every_entry_names_a_function_that_takes_a_device_and_gives_findings(
    check: Check,
) -> None:
    function = check.load()

    hints = get_type_hints(function)
    (parameter,) = inspect.signature(function).parameters
    assert hints[parameter] is ExaminedDevice
    assert hints["return"] in (Iterator[Finding], Iterable[Finding])
    assert function.__name__ == f"check_{check.name}"
    assert function.__module__ == f"edge.doctor.checks.{check.module}"
    assert check.deadline_s > 0


def test_an_entry_with_a_misspelt_name_cannot_be_loaded() -> None:
    """The control: loading is what the test above relies on."""
    with pytest.raises(AttributeError, match="check_clok"):
        Check("clok", "machine", 20).load()
    with pytest.raises(ModuleNotFoundError, match="machin"):
        Check("clock", "machin", 20).load()


def test_every_check_function_is_in_the_registry() -> None:
    folder = list(edge.doctor.checks.__path__)
    functions = {
        (name.removeprefix("check_"), module.name)
        for module in pkgutil.iter_modules(folder)
        for name in vars(import_module(f"edge.doctor.checks.{module.name}"))
        if name.startswith("check_")
    }

    assert functions == {(check.name, check.module) for check in CHECKS.values()}


def test_every_check_has_a_test_that_breaks_a_device() -> None:
    assert {broken.name for broken in BROKEN} | OF_THE_MACHINE == set(CHECKS)


def test_every_check_has_a_line_in_the_documentation() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| check |") :].partition("\n\n")[0]

    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(CHECKS)
