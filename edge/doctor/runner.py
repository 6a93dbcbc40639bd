"""Run the checks, each in a process of its own with a deadline.

A driver of a camera or a GPU, or a dead network disk, can block or end the process that
uses it. So a check that takes too long is killed, and a check that dies is a finding
like any other.
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
from edge.doctor.device import ExaminedDevice, SettingMissing, read_device
from edge.doctor.findings import Finding, Report, fault, unknown, worst_status
from edge.doctor.registry import CHECKS, Check
from edge.import_faults import import_fault
from edge.schema.codec import PayloadInvalid, decode

log = logging.getLogger(__name__)

_MAX_PROCESSES = 4
_KILL_TIMEOUT_S = 2.0
Findings = tuple[Finding, ...]


def examine_device(config: Path | None, names: Sequence[str] = ()) -> Report:
    """Run checks on a device, each in its own process. Never raises.

    Parameters
    ----------
    config
        The settings file; None takes the one of the systemd units, if there is one.
    names
        Of `CHECKS`; all if empty.
    """
    wanted = [check for name, check in CHECKS.items() if not names or name in names]
    config = read_device(config).config
    results = _in_processes(wanted, config)
    findings = tuple(finding for found, _ in results for finding in found)
    return Report(
        utc=clock.utc_now(),
        software=__version__,
        config=None if config is None else str(config),
        status=worst_status(findings),
        findings=findings,
        spent_s={
            check.name: round(spent_s, 2)
            for check, (_, spent_s) in zip(wanted, results, strict=True)
        },
    )


def run_check(check: Check, device: ExaminedDevice) -> Findings:
    """Run one check in this process.

    If it raises, this is one more finding, after those that it had found before.
    """
    findings: list[Finding] = []
    try:
        for finding in check.load()(device):
            findings.append(finding)
    except SettingMissing as missing:
        text = "there is no settings file"
        if device.config is not None:
            text = f"{missing} is missing from the settings, or wrong there"
        remedy = "see to the finding on settings first"
        findings.append(unknown(check.name, text, remedy))
    except (ImportError, AttributeError) as error:
        findings.append(_import_finding(check, device, error))
    except Exception as error:
        log.exception("check=%s broke", check.name)
        findings.append(_broke(check, error))
    return tuple(findings)


def _import_finding(
    check: Check, device: ExaminedDevice, error: ImportError | AttributeError
) -> Finding:
    """Return what cannot be imported; a lab server needs no engine and no OpenCV."""
    missing = import_fault(error)
    if missing is None:
        return _broke(check, error)
    how = unknown if device.config is None else fault
    return how(check.name, missing.found, missing.remedy)


def _broke(check: Check, error: Exception) -> Finding:
    command = f"hemascope -v doctor --only {check.name}"
    return fault(
        check.name,
        f"the check itself broke: {error!r}",
        f"send the makers what `{command}` prints",
    )


def _in_processes(
    checks: Sequence[Check], config: Path | None
) -> list[tuple[Findings, float]]:
    """Run checks side by side; if this is interrupted, all of them are killed."""
    started, is_over = list[subprocess.Popen[bytes]](), threading.Event()
    with ThreadPoolExecutor(_MAX_PROCESSES) as pool:
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
    """Run one check in another process; return its findings and the seconds it took."""
    command = [sys.executable, "-m", "edge.doctor", check.name]
    command += [] if config is None else [str(config)]
    start_s = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 ourselves
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ
        | {"PYTHONSAFEPATH": "1"},  # import nothing from the current folder
        start_new_session=True,  # what it starts ends with it
    )
    started.append(process)
    if is_over.is_set():  # interrupted while this one was being started
        _end(process)
    try:
        out, err = process.communicate(timeout=check.deadline_s)
        findings = _read(check, process.returncode, out, err)
    except subprocess.TimeoutExpired:
        _end(process)
        findings = (
            fault(
                check.name,
                f"no answer within {check.deadline_s:g} s: the check hangs",
                "restart the machine; if it hangs again, unplug what it waits for",
            ),
        )
    return findings, time.monotonic() - start_s


def _read(check: Check, code: int, out: bytes, err: bytes) -> Findings:
    """Read the findings of a check's process, or say how it died."""
    log.debug("check=%s printed %s", check.name, err.decode(errors="replace"))
    try:
        return decode(out, Findings)
    except PayloadInvalid:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        return (
            fault(
                check.name,
                f"the check ended with {how}: {last[:300] or 'it printed nothing'}",
                "reinstall the library or driver that it uses",
            ),
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a check and all processes that it started.

    One that waits in the kernel cannot be killed; it is not waited for.
    """
    with suppress(ProcessLookupError):  # it was ended before
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.communicate(timeout=_KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        log.warning("process=%d cannot be killed", process.pid)


def check_process(arguments: Iterable[str]) -> None:
    """Run one check and write its findings to the standard output.

    Libraries that print write to the standard error instead: nothing may get between
    the findings.

    Parameters
    ----------
    arguments
        The check's name, and the settings file if there is one.
    """
    name, *config = arguments
    out = os.dup(1)
    os.dup2(2, 1)
    device = read_device(Path(config[0]) if config else None)
    with os.fdopen(out, "wb") as file:
        file.write(msgspec.json.encode(run_check(CHECKS[name], device)))
