"""Requests within time budgets: sockets, TLS, names, and the clients of Redis and AWS."""
