"""What is wrong with a device, and the one thing to do about it.

Each check is a small function in a module named after what it knows; `checks` lists
them, `examining` runs each in a process of its own, so that none can hang or end
another.
"""
