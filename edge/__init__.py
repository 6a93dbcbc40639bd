"""The frame's way on the device, and the other end of the wire.

Owns every type that a file or a message carries. Needs no training framework.
"""

import os

__version__ = "0.1.0"

# Official Linux builds of ONNX Runtime write an id into the home folder and report to
# their maker. The variable is read once, while `onnxruntime` is imported; a call of
# `disable_telemetry_events` afterwards comes too late: the id is written by then. So
# it is set here, which Python runs before any module of `edge`. The packages above
# import `edge` first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
