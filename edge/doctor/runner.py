"""Run the checks, each in a process of its own with a deadline.

A camera's driver, a GPU's or a dead network disk may hang or end whoever touches it; so
a check is given up at its deadline, and one that dies is a finding like any other.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from edge import __version__, clock
from edge.doctor.device import ExaminedDevice, SettingMissing, read_subject
from edge.doctor.findings import Finding, Report, fault, unknown, worst
from edge.doctor.registry import CHECKS, Check
from edge.schema.codec import PayloadInvalid, decode

log = logging.getLogger(__name__)

_AT_ONCE = 4
_GONE_S = 2.0
Findings = tuple[Finding, ...]


def examine(config: Path | None, names: Sequence[str] = ()) -> Report:
    """Examine a device; `names` are the checks wanted, all if empty. Never raises.

    Parameters
    ----------
    config
        The settings file; None takes the one of the units, if there is one.
    names
        Of `CHECKS`.
    """
    wanted = [check for name, check in CHECKS.items() if not names or name in names]
    config = read_subject(config).config
    looked = _in_processes(wanted, config)
    findings = tuple(finding for found, _ in looked for finding in found)
    return Report(
        utc=clock.utc_now(),
        software=__version__,
        config=None if config is None else str(config),
        status=worst(findings),
        findings=findings,
        spent_s={
            check.name: round(spent_s, 2)
            for check, (_, spent_s) in zip(wanted, looked, strict=True)
        },
    )


def look(check: Check, subject: ExaminedDevice) -> Findings:
    """Run one check here; whatever it raises is a finding after those before it."""
    found: list[Finding] = []
    try:
        for finding in check.load()(subject):
            found.append(finding)
    except SettingMissing as missing:
        text = "there is no settings file"
        if subject.config is not None:
            text = f"the settings do not say {missing}, or say it wrongly"
        remedy = "see to the finding on settings first"
        found.append(unknown(check.name, text, remedy))
    except Exception as error:
        log.exception("check=%s broke", check.name)
        text = f"the check itself broke: {error!r}"
        command = f"hemascope -v doctor --only {check.name}"
        remedy = f"say so to the makers, with what `{command}` prints"
        found.append(fault(check.name, text, remedy))
    return tuple(found)


def _in_processes(
    checks: Sequence[Check], config: Path | None
) -> list[tuple[Findings, float]]:
    """Run checks beside each other; whoever is interrupted takes them along."""
    started, is_over = list[subprocess.Popen[bytes]](), threading.Event()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            return list(
                pool.map(lambda c: _in_process(c, config, started, is_over), checks)
            )
        except BaseException:
            is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                if process.poll() is None:
                    _end(process)
            raise


def _in_process(
    check: Check,
    config: Path | None,
    started: list[subprocess.Popen[bytes]],
    is_over: threading.Event,
) -> tuple[Findings, float]:
    """Run one check in another process, until its deadline."""
    command = [sys.executable, "-m", "edge.doctor", check.name]
    command += [] if config is None else [str(config)]
    start_s = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 ourselves
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONSAFEPATH": "1"},  # no modules of the present folder
        start_new_session=True,  # what it starts ends with it
    )
    started.append(process)
    if is_over.is_set():  # interrupted while it was being started
        _end(process)
    try:
        out, err = process.communicate(timeout=check.deadline_s)
        found = _read(check, process.returncode, out, err)
    except subprocess.TimeoutExpired:
        _end(process)
        found = (
            fault(
                check.name,
                f"no answer within {check.deadline_s:g} s: what was looked at hangs",
                "start the machine again; if it hangs again, unplug what hangs",
            ),
        )
    return found, time.monotonic() - start_s


def _read(check: Check, code: int, out: bytes, err: bytes) -> Findings:
    """Read what a check's process said, or say how it died."""
    log.debug("check=%s said %s", check.name, err.decode(errors="replace"))
    try:
        return decode(out, Findings)
    except PayloadInvalid:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        return (
            fault(
                check.name,
                f"the check ended with {how}: {' '.join(last)[:300] or 'silently'}",
                "a library or driver that it uses is broken: install it again",
            ),
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a check with all it started; one that the kernel holds is left alone."""
    with suppress(ProcessLookupError):  # ended twice
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.communicate(timeout=_GONE_S)
    except subprocess.TimeoutExpired:
        log.warning("process=%d cannot be ended", process.pid)


def alone(arguments: Iterable[str]) -> None:
    """Run one check and write what it found; `arguments` are its name and the file.

    Libraries that print do so on the standard error.
    """
    name, *config = arguments
    out = os.dup(1)
    os.dup2(2, 1)
    subject = read_subject(Path(config[0]) if config else None)
    with os.fdopen(out, "wb") as file:
        file.write(msgspec.json.encode(look(CHECKS[name], subject)))
