"""What the facts and attempts mean: pure functions and tables, no system call."""
