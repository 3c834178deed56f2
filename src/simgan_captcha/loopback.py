"""HTTP to this machine itself: a proxy of the environment cannot reach its loopback."""

LOOPBACK_DIRECT: dict[str, None] = dict.fromkeys(
    f"all://{host}" for host in ("127.0.0.1", "localhost", "[::1]")
)
"""For the ``mounts`` of an httpx client: no proxy for these hosts."""
