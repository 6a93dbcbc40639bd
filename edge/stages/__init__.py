"""Pure stages of one frame: arrays in, arrays out; no clock, file or network."""
