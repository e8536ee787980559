"""Benchmarks, and what they share with demonstrations and tests: hosts on one host, services, guests, watches."""
