"""The local environment: a real Valkey and moto on loopback, and the drills that run on it."""
