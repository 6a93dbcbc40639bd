"""Break everything between device and archive at random, and compare every row.

    python -m tests.chaos --minutes 10 --seed 1 --rate 50

A process writes rows through `Ledger`, and a witness holds each row that `append`
returned. The real `publish` and `archive` deliver them through a proxy each and a
mosquitto that remembers nothing. At the end all is let drain, and the archive's file is
compared with the witness byte by byte. Ends with 1 if a row was lost, altered, doubled
or out of order. With `--control NAME` one promise is broken on purpose, and it ends
with 1 if nothing was noticed.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.chaos.controls import CONTROLS, rewrite_rows
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.report import TWO_AT_ONCE, Findings
from tests.chaos.site import Site, pause
from tests.chaos.witness import compare, read_archive, read_witness
from tests.chaos.writer import DEVICE

_RECOVERY_S, _DRAIN_S = 90.0, 150.0
_PAIR_SHARE, _HURRY_SHARE = 0.25, 0.25


def campaign(
    folder: Path, minutes: float, seed: int, rate_hz: float, control: str | None
) -> Findings:
    """Run one campaign, and return what it found."""
    rng, found = random.Random(seed), Findings()  # noqa: S311
    site = Site(folder, rate_hz, seed, control)
    try:
        assert site.await_row_after(0, _RECOVERY_S) is not None, "nothing is archived"
        begin_s = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            while time.monotonic() - begin_s < 60 * minutes:
                _break_something(site, found, rng, pool)
        found.seconds = time.monotonic() - begin_s
        site.drain(_DRAIN_S)
        found.drained_s = time.monotonic() - begin_s - found.seconds
        for name in ("publish", "archive"):
            site.end(name)
    finally:
        site.close()
    _compare(site, found)
    return found


def _break_something(
    site: Site, found: Findings, rng: random.Random, pool: ThreadPoolExecutor
) -> None:
    """Let one or two faults happen; mostly wait until rows arrive again."""
    kinds = _choose(site, found, rng)
    acts = [
        # A generator of its own for each: which of two threads comes first is chance.
        pool.submit(fault.act, site, random.Random(rng.random()))  # noqa: S311
        for fault in kinds.values()
    ]
    for act in acts:
        act.result()
    found.faults.update(kinds.keys())
    site.tend()
    name = " + ".join(kinds) if len(kinds) == 1 else TWO_AT_ONCE
    if rng.random() < _HURRY_SHARE:
        return  # the next fault meets programs that have not recovered
    took_s = site.await_row_after(site.newest_archived(), _RECOVERY_S)
    if took_s is None:
        found.stalls.append(" + ".join(kinds))
        site.device_link.cut()  # go on with the rest of the campaign
        site.archive_link.cut()
    else:
        found.recoveries_s.setdefault(name, []).append(took_s)
    pause(rng.uniform(0, 1.5))


def _choose(site: Site, found: Findings, rng: random.Random) -> dict[str, Fault]:
    known = dict(FAULTS)
    if site.control is not None:
        # Only what the control needs: kills, and rows that are rewritten.
        known = {kind: FAULTS[kind] for kind in ("archive killed", "broker away")}
        if site.control == "rewritten-rows":
            known["rows rewritten"] = Fault(frozenset(), rewrite_rows)
    # Each kind once before any comes again: also a short campaign tries them all.
    fewest = min(found.faults[kind] for kind in known)
    kind = rng.choice([kind for kind in known if found.faults[kind] == fewest])
    chosen = {kind: known[kind]}
    if site.control is None and rng.random() < _PAIR_SHARE:
        other = rng.choice(list(known))
        if not known[other].touches & known[kind].touches:
            chosen[other] = known[other]
    return chosen


def _compare(site: Site, found: Findings) -> None:
    archived, foreign = read_archive(site.archive_file, DEVICE, site.epoch)
    found.comparison = compare(read_witness(site.witness_file), archived, foreign)
    found.writer_kills = site.kills["writer"]
    found.ended_alone = site.ended_alone
    found.tampered_chunks = sum(
        link.tampered_chunks for link in (site.device_link, site.archive_link)
    )
    with closing(sqlite3.connect(site.archive_file)) as db:
        (found.quarantined,) = db.execute("SELECT count(*) FROM quarantine").fetchone()
        (found.holes,) = db.execute(
            "SELECT ifnull(sum(last - first + 1), 0) FROM holes"
        ).fetchone()


def main() -> int:
    """Run a campaign as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=50.0, help="rows per second")
    parser.add_argument("--control", choices=CONTROLS)
    parser.add_argument("--keep", type=Path, help="folder for files and logs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hemascope-chaos-") as made:
        folder = asked.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        found = campaign(folder, asked.minutes, asked.seed, asked.rate, asked.control)
    sys.stdout.write(found.table() + "\n")
    if asked.control is not None:
        sys.stdout.write("noticed\n" if not found.is_whole else "NOT noticed\n")
        return int(found.is_whole)
    return int(not found.is_whole)


if __name__ == "__main__":
    sys.exit(main())
