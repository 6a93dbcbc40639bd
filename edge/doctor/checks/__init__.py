"""One file per thing that is checked."""
