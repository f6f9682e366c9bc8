"""The control group: a container in which a debugger should work, and what a real target adds to it, one at a time."""
