"""The workstation side: data, augmentation, models, fitting, evaluation."""

import edge as edge  # first: it turns reports of ONNX Runtime off
