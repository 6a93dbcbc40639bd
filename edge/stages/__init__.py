"""Stages of one frame: pure functions from arrays to arrays.

What a stage must do:

- The same arguments give the same result. A stage reads no clock, file, network, ledger
  or camera, keeps nothing between two calls, and draws no random numbers.
- It does not change its arguments.
- Its docstring states axes, dtype, range and unit of every array, and each error.
- It accepts a frame without any cell, N = 0.
- Several threads may call it at once.

State belongs to those who call stages: the source, the engine, the tracker, the ledger.

Terms: *counts* are the numbers that the sensor gave, uint8 or uint16. A *corrected*
frame is uint8 RGB with the colours of the reference. A *reduced* frame is shrunk to the
size at which the locator was trained. *Boxes* are (N, 4) float32, x0, y0, x1, y1 in
pixels; x goes right, y goes down, (0, 0) is the upper left corner of the frame.

A worked example: cut the crop of one cell out of a frame, with the device's own code.

>>> import numpy as np
>>> from edge.stages.crops import cut_crops, windows
>>> frame = np.full((100, 120, 3), 230, np.uint8)
>>> frame[40:60, 50:80] = (150, 60, 140)
>>> boxes = np.array([[50, 40, 80, 60]], np.float32)
>>> around = windows(boxes, context=2.0)
>>> around.tolist()
[[35, 20, 95, 80]]
>>> crops = cut_crops(frame, around, size_px=30)
>>> crops.shape, crops.dtype
((1, 30, 30, 3), dtype('uint8'))
>>> crops[0, 15, 15].tolist(), crops[0, 0, 0].tolist()
([150, 60, 140], [230, 230, 230])

No cells give no crops, in the same shape:

>>> cut_crops(frame, np.zeros((0, 4), np.int32), size_px=30).shape
(0, 30, 30, 3)
"""
