"""Which cameras are there, and what to write into the settings."""

from __future__ import annotations

from pathlib import Path

import click

from edge.cli.groups import Section, in_section

_PATH = click.Path(path_type=Path, exists=True)


@in_section(Section.DEVICE)
@click.command("cameras")
@click.option(
    "--micromanager",
    "config",
    type=_PATH,
    help="Configuration file of Micro-Manager. Its cameras are listed too.",
)
@click.option(
    "--adapters",
    type=_PATH,
    help="Folder of the device adapters of Micro-Manager. Without it, pymmcore-plus "
    "looks for the folder.",
)
def cameras_command(config: Path | None, adapters: Path | None) -> None:
    """List the cameras that are connected, and what to write into [source] for each."""
    from edge.settings.sources import MicroManagerSettings
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
