"""Hemascope: a microscope, a camera and a Jetson that name blood cells live."""
