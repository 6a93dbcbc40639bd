"""The command `hemascope build`."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edge.artifacts.bundle import (
    CLASSIFIER,
    LOCATOR,
    ON_REFERENCE,
    Bundle,
    BundleRefused,
    load_bundle,
)
from edge.engines import EngineFailed
from edge.engines.build_manifest import (
    EngineManifest,
    EnginePath,
    build_options_of,
    read_manifest,
)
from edge.engines.cuda import GpuFailed
from edge.engines.opening import open_engine, stale_engine
from edge.settings.models import EngineSettings, Precision
from export.engine import build_engine, run_in_thread


def build_engines(
    bundles: tuple[Path, ...],
    precision: Precision,
    batch: tuple[int, int, int],
    force: bool,
    **options: Any,
) -> None:
    """Build the engines of bundles that need it, and show what each was built from."""
    console = Console()
    for folder in bundles or (LOCATOR, CLASSIFIER, ON_REFERENCE):
        bundle = load_bundle(folder)
        is_locator = bundle.record.input.size_px is None
        settings = EngineSettings(
            engine="tensorrt",
            precision="fp32" if is_locator else precision,
            batch=batch,
            **options,
        )
        path, reasons = stale_engine(bundle, settings)
        reasons = reasons or _failures(bundle, settings)
        for reason in reasons:
            console.print(f"{bundle.id}: {reason}", highlight=False)
        if reasons or force:
            _build(bundle, path, settings, console)
        else:
            console.print(f"{bundle.id}: the engine is good, its self-test passed")
        console.print(_table(bundle.id, read_manifest(path)))
        console.print(f"engine: {path.folder}", highlight=False)


def _failures(bundle: Bundle, settings: EngineSettings) -> list[str]:
    """Test an engine whose manifest fits; return why it fails, or nothing."""
    try:
        open_engine(bundle, settings).close()
    except GpuFailed:
        raise
    except (EngineFailed, BundleRefused) as error:
        return [str(error)]
    return []


def _build(
    bundle: Bundle, path: EnginePath, settings: EngineSettings, console: Console
) -> None:
    """Build one engine and show its progress; Ctrl-C ends it, nothing is written."""
    cancel = threading.Event()
    with _bar(console) as bar:
        task = bar.add_task(f"building {bundle.id}", total=1.0, phase="")

        def show(share: float, phase: str) -> None:
            bar.update(task, completed=share, phase=phase[:48])

        def work() -> EngineManifest:
            return build_engine(
                bundle,
                build_options_of(bundle, settings.precision, settings.batch),
                path,
                settings,
                datetime.now(timezone.utc).replace(microsecond=0),
                progress=show,
                cancel=cancel,
            )

        run_in_thread(work, cancel)
        show(1.0, "")


def _bar(console: Console) -> Progress:
    """Return a bar that shows the phase of a build."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
    )
    return Progress(*columns, console=console)


def _table(bundle_id: str, manifest: EngineManifest) -> Table:
    """Show what an engine was built from, where, and how it did."""
    grid = Table(title=f"engine of {bundle_id}", show_header=False)
    site, order = manifest.site, manifest.order
    worst = ", ".join(f"{n} {v:.2g}" for n, v in manifest.parity.worst.items())
    where = "" if site.l4t is None else f", Jetson Linux {site.l4t}"
    grid.add_row("precision", order.precision)
    for name, shapes in order.shapes.items():
        grid.add_row(name, " to ".join(str(shape) for shape in shapes))
    grid.add_row(
        "built on",
        f"{site.gpu}, compute capability {site.compute_capability}{where}; "
        f"{site.flavour} {site.tensorrt}, driver {manifest.driver}",
    )
    grid.add_row("build", f"{manifest.build_seconds:.1f} s")
    grid.add_row("worst difference on golden input", worst)
    if manifest.parity.agreement is not None:
        grid.add_row("golden cells named alike", f"{manifest.parity.agreement:.1%}")
    for latency in manifest.latency:
        grid.add_row(
            f"{latency.rows} rows",
            f"{latency.median_ms:.3f} ms, 99 % within {latency.p99_ms:.3f} ms",
        )
    return grid
