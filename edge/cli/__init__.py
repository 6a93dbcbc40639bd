"""The commands of this folder, one module per kind."""
