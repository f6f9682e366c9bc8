"""Pure: seccomp programs built, disassembled, evaluated and explained."""
