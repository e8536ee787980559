"""Addresses as people type them: ``host``, ``host:port``, ``[v6]:port``, ``unix:/path``."""

from dataclasses import dataclass

from migrated.errors import UsageError

__all__ = ["DEFAULT_PORT", "Address", "parse_address"]

DEFAULT_PORT = 4440


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address, or a Unix socket's ``path``."""

    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """Read an address; UsageError names the text and what is allowed."""
    hint = "write host, host:port, [ipv6]:port or unix:/path"
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise UsageError(f"no path in the address {text!r}", hint)
        return Address(path=text[len("unix:") :])
    host, port = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise UsageError(f"not an address: {text!r}", hint)
        port = rest[1:]
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not host:
        raise UsageError(f"no host in the address {text!r}", hint)
    if not port and not text.endswith(":"):
        return Address(host, default_port)
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"not a port number: {port!r} in the address {text!r}", "ports go from 0 to 65535")
    return Address(host, int(port))
