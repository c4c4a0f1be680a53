"""Every source of failure against every command: the exit code, a hint, and an end while a server stays silent."""
