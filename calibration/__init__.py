"""Measures what the device then applies, frozen."""

import edge as edge  # first: it turns reports of ONNX Runtime off
