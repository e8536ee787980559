"""The test VM: its kernel and program, its contents, and machines that run it."""
