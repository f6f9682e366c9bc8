"""Experiments: what the kernel does when it is asked, as against what facts say it would do."""
