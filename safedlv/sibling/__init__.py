"""A debugger beside the target, or in its place: sibling containers."""
