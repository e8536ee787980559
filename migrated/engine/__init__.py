"""One migration, seen from either side: rounds, convergence, switchover, commit. Knows no sockets and no logs."""
