"""What is wrong with a device, and the one thing to do about it.

Each check is a small function in `checks`, in a module named after what it knows.
`registry` lists the checks, and `runner` runs each in a process of its own, so that
none can block or end another.
"""
