"""Where targets run: container engines, and a sandbox of our own without one."""
