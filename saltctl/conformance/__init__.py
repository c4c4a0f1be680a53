"""Whether a client in any language keeps the protocol: test vectors, and a trial on real servers under faults."""
