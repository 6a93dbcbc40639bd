"""Compile the stand-in driver and say which environment puts it in place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_OWN = re.compile(r"^Result (cu\w+)\(", re.MULTILINE)


def pycuda_library() -> Path | None:
    """Return pycuda's compiled part; None where it is not installed."""
    spec = find_spec("pycuda")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_driver*.so"), None)


def standin_environment(folder: Path, pycuda: Path) -> dict[str, str]:
    """Compile the driver into `folder`; return the environment of a process on it.

    What pycuda links and we do not have answers "not supported".
    """
    needed = subprocess.run(
        ["nm", "-D", "--undefined-only", pycuda],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    source = (HERE / "driver.c").read_text(encoding="utf-8")
    missing = set(re.findall(r" U (cu\w+)", needed)) - set(_OWN.findall(source))
    stubs = folder / "stubs.c"
    stubs.write_text("".join(f"int {name}(void){{return 801;}}\n" for name in missing))
    library = folder / "libcuda.so.1"
    command = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
    command += ["-Wl,-soname,libcuda.so.1", "-o", str(library)]
    subprocess.run([*command, HERE / "driver.c", stubs], check=True)
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def python(
    environment: dict[str, str], *arguments: str, root: Path = ROOT
) -> subprocess.CompletedProcess:
    """Run Python with these arguments there, from the root of a project."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=600,
    )
