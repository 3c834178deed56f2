"""Sockets and HTTP connections of the servers of this package."""
