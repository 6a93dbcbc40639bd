"""Which cameras are there, and what to write into the settings."""

from __future__ import annotations

from pathlib import Path

import click

from edge.settings.sources import MicroManagerSettings

_PATH = click.Path(path_type=Path, exists=True)


@click.command("cameras")
@click.option(
    "--micromanager",
    "config",
    type=_PATH,
    help="A configuration file of Micro-Manager, whose cameras are listed too.",
)
@click.option("--adapters", type=_PATH, help="The folder of its device adapters.")
def cameras_command(config: Path | None, adapters: Path | None) -> None:
    """List the cameras that are connected, with the address for [source]."""
    from edge.sources.discovery import (
        FoundCamera,
        genicam_cameras,
        micromanager_cameras,
        v4l2_cameras,
    )

    kinds = {"V4L2": v4l2_cameras(), "GenICam": genicam_cameras()}
    if config is not None:
        settings = MicroManagerSettings(config=config, adapters=adapters)
        kinds["Micro-Manager"] = micromanager_cameras(settings)
    for name, cameras in kinds.items():
        lines = list(cameras)
        click.echo(f"{name}: {'' if lines else 'no camera answers'}".rstrip())
        for camera in lines:
            if not isinstance(camera, FoundCamera):
                click.echo(f"  {camera}")
                continue
            click.echo(f'  kind = "{camera.kind}", {camera.address}')
            click.echo(f"    {camera.about}")
            if camera.controls:
                click.echo(f"    {camera.controls}")
