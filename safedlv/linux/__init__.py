"""The edge to the kernel: one thin function per system call, OSError naming the call, no policy."""
