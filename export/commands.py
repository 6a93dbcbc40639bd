"""The commands `export` and `build`, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from calibration.choices import MIN_CROPS
from edge.cli.groups import Section, in_section
from edge.cli.options import ChoiceOf


@in_section(Section.TRAIN)
@click.command("export")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Name of the bundle. Without it, the name of OUT.")
@click.option(
    "--error-rate",
    default=0.005,
    help="Wanted share of errors among the named cells of `val`.",
)
@click.option(
    "--most-abstained",
    default=0.01,
    help="Largest share of the cells of `val` that may be left unidentified.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp16", "int8"]),
    help="Export in this precision too, and compare it with fp32 on the test cells of "
    "--data. May be given several times.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    help="Labelled cells, as for `train`. Needed for --precision.",
)
@click.option(
    "--crops",
    default=256,
    type=click.IntRange(MIN_CROPS),
    help="Number of cells of `train` that the ranges of int8 are measured on.",
)
@click.option(
    "--any-licence",
    is_flag=True,
    help="Use also data whose licence does not let weights be shipped.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Export a precision even if it names too many cells otherwise than fp32.",
)
def export_command(**options: Any) -> None:
    """Export a trained model as a bundle that a device can use.

    RUN is the folder of a training run, OUT the folder for the bundle.
    """
    from export.export_command import export_model

    export_model(**options)


class Batch(click.ParamType):  # type: ignore[type-arg]
    """`MIN,OPT,MAX`: three rising numbers of cells."""

    name = "MIN,OPT,MAX"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, int, int]:
        """Return the three numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            self.fail(f"{value!r}: expected three numbers such as 1,32,128")
        low, usual, high = (int(part) for part in parts)
        if not 1 <= low <= usual <= high:
            self.fail(
                f"{value!r}: expected 1 or more, none smaller than the one before"
            )
        return low, usual, high


@in_section(Section.DEVICE)
@click.command("build")
@click.argument(
    "bundles",
    nargs=-1,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option(
    "--precision",
    default="fp32",
    type=ChoiceOf("edge.settings.models:PRECISIONS"),
    help="Precision of the engine. The bundle must have been exported in it; a model "
    "that finds cells is always built in fp32.",
)
@click.option(
    "--batch",
    default="1,32,128",
    type=Batch(),
    help="Least, usual and most cells in one call.",
)
@click.option(
    "--engines",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the engines. Without it, they are kept in the bundle.",
)
@click.option(
    "--graphs/--no-graphs",
    "has_graphs",
    default=True,
    help="Replay CUDA graphs, which is faster.",
)
@click.option(
    "--mapped/--copied",
    "is_mapped",
    default=None,
    help="Share memory between CPU and GPU, or copy between them. Without it, "
    "memory is shared on GPUs that have no memory of their own.",
)
@click.option("--force", is_flag=True, help="Build an engine again even if it is good.")
def build_command(**options: Any) -> None:
    """Build the TensorRT engines that this device needs.

    BUNDLES are folders of models. Without them, the engines of the models that come
    with Hemascope are built. An engine that is there is tested, and kept if it passes.
    For any other, the reason why it is built again is shown.
    """
    from export.build_command import build_engines

    build_engines(**options)
