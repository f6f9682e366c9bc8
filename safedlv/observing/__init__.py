"""dlv under a system call tracer: what it was refused, and what that did to the session."""
