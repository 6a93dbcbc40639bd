"""The layouts that labelled cells come in, one file each. They say what a file says."""
