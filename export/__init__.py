"""From a fitted model to a bundle, and to figures of its speed."""

import edge as edge  # first: it turns reports of ONNX Runtime off
