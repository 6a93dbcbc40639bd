"""Sources of frames: the only part that knows cameras."""
