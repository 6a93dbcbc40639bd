"""From the bytes of an image file to counts: one decoder per format, none believed."""
