"""Cameras through GStreamer pipelines."""
