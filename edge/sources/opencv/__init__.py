"""Cameras, streams and video files through OpenCV."""
