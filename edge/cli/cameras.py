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
    from edge.sources.discovery import FoundCamera
    from edge.sources.kinds import connected_cameras

    given = []
    if config is not None:
        given.append(MicroManagerSettings(config=config, adapters=adapters))
    for name, cameras in connected_cameras(given):
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
