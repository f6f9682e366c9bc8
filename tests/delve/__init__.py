"""Delve's own tests, run with shims/dlv where they start a dlv: ``python -m tests.delve``."""
