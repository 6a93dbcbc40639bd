"""Pages that show what was measured, before and after."""
