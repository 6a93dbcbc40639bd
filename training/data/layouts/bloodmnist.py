"""BloodMNIST: for each split one stack of images and their class numbers, in an npz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.errors import FrameRejected
from edge.taxonomy import TASKS
from training.choices import SPLITS
from training.data.layouts.cells import Cell
from training.data.npz_stacks import read_array, read_stack
from training.data.rows import DataInvalid

_NAMES = TASKS["pbc8"]  # in the order of its class numbers


def read_bloodmnist(source: Path) -> Iterator[Cell]:
    """Read the cells of every stack."""
    for split in SPLITS:
        try:
            images = read_stack(source, split)
            numbers = read_array(source, f"{split}_labels").reshape(-1)
        except FrameRejected as error:
            raise DataInvalid(f"{error}; expected the arrays of BloodMNIST") from error
        if len(images) != len(numbers) or numbers.dtype.kind not in "iu":
            raise DataInvalid(
                f"{source}: {len(images)} {split}_images and {len(numbers)} "
                f"{split}_labels of {numbers.dtype}, expected one integer per image"
            )
        for index, number in enumerate(numbers.tolist()):
            where = f"{source.name}:{split}[{index}]"
            if number not in range(len(_NAMES)):
                raise DataInvalid(
                    f"{where}: class is {number}, expected 0 to {len(_NAMES) - 1}"
                )
            yield Cell(source, _NAMES[number], split, None, where, index)
