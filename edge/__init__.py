"""The frame's way on the device, and the other end of the wire.

Owns every type that a file or a message carries. Needs no training framework.
"""

__version__ = "0.1.0"
