"""The control plane: what runs here, and changing it while it runs, over HTTP.

    GET    /v1/migrations        {"migrations": [...]}: every migration of this process, newest last
    GET    /v1/migrations/ID     one of them; ID may be shortened as long as it is unique
    DELETE /v1/migrations/ID     cancel it: 202, or 409 once it is decided
    PATCH  /v1/migrations/ID     {"bandwidth": "1gbit", "level": "3", ...}         the migration, changed
    DELETE /v1/undecided/ID      never run a guest that was to run here; ID in full; over the Unix socket only
    GET    /v1/info              who answers: software, role, pid, addresses, whether it is stopping
    GET    /metrics              Prometheus
    GET    /healthz              200, or 503 while it is stopping

An error is ``{"reason", "what", "hint", "exit_code"}`` with the words of :mod:`migrated.errors`.

**Who may.** Every process serves this on a Unix socket that only its own user (and root) can reach
(:mod:`migrated.control.sockets`); `migrated status`, `cancel` and `set` use these. The daemon also serves
it on TCP (``serve.control``, by default loopback), where DELETE and PATCH are taken from loopback peers
only: who opens the address to a network opens it for reading. On TCP the Host header must be an IP address,
localhost, this host's name or the configured one, so that no web page can reach it by a name of its own
that it re-points here (DNS rebinding); and there are no CORS headers, so a browser lets no other page
change or read anything.

The modules: ``directory`` (what is shown and changed), ``app`` (HTTP), ``server`` (sockets and life cycle),
``sockets`` (where the Unix sockets are), ``client`` (the other end).
"""
