"""Show devices in the terminal, and on a page in the browser."""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from rich.console import Console
from rich.live import Live

from edge.dashboard.observer import Observer
from edge.dashboard.terminal import table
from edge.dashboard.web import Dashboard


@contextmanager
def show_live(
    page: int | None,
    console: Console,
    *,
    opens: bool = False,
    names: tuple[str, ...] = (),
) -> Iterator[Callable[[Observer], None]]:
    """Yield a function that shows an observer: as a table, and on a page if wanted.

    `page` is the port of the page, None for no page. `opens`: open it in the browser.
    """
    with ExitStack() as opened:
        live = opened.enter_context(Live(console=console, refresh_per_second=4))
        dashboard = None
        if page is not None:
            dashboard = Dashboard(page, names=names)
            opened.callback(dashboard.close)
            console.print(f"page: {dashboard.url}")
            if opens and console.is_terminal:
                threading.Thread(target=partial(webbrowser.open, dashboard.url)).start()

        def show(observer: Observer) -> None:
            live.update(table(observer))
            if dashboard is not None:
                dashboard.show(observer)

        yield show
