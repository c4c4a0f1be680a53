"""Proof in production: writes and reads reserved conversations, and checks the promise on them."""
