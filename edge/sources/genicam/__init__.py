"""GenICam cameras through Aravis."""
