"""What a lab server installs, and that it does its work with that."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edge.doctor.checks.versions import ONLY_DEVICES_NEED

ROOT = Path(__file__).parents[2]
REFUSED = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        decoders = "PIL", "simplejpeg", "tifffile"
        if name.partition(".")[0] in ("cv2", "onnxruntime", "scipy", *decoders):
            raise ImportError(name + " is not installed on a lab server")
sys.meta_path.insert(0, Refuse())
for name in sys.argv[1].split():
    importlib.import_module(name)
"""
MODULES = {
    "archive": "edge.archive.receiver edge.archive.store edge.archive.backup",
    "runs": "edge.archive.run_history edge.archive.run_list",
    "watch": "edge.dashboard.display edge.dashboard.terminal edge.dashboard.web",
    "command": "edge.remote.client",
    "doctor": "edge.doctor.runner edge.doctor.checks.versions",
}


def test_a_lab_server_installs_all_but_what_only_devices_need() -> None:
    file = (ROOT / "systemd" / "lab-server.txt").read_text()
    listed = {str(Requirement(r)) for r in file.splitlines() if not r.startswith("#")}
    ours = [Requirement(line) for line in requires("hemascope") or ()]
    needed = {str(r) for r in ours if "extra" not in str(r.marker)}
    left_out = {r for r in needed if Requirement(r).name in ONLY_DEVICES_NEED}

    assert len(left_out) == len(ONLY_DEVICES_NEED)
    assert listed == needed - left_out


@pytest.mark.parametrize("command", MODULES)
def test_a_command_of_a_lab_server_needs_neither_opencv_nor_an_engine(
    command: str,
) -> None:
    modules = f"edge.cli.main {MODULES[command]}"

    done = subprocess.run(
        [sys.executable, "-c", REFUSED, modules],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
