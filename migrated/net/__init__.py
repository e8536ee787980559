"""Connections: addresses, dialling and listening, the rate limit, and the channel that carries the protocol."""
