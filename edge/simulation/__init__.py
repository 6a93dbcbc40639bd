"""The simulated microscope whose truth is known."""
