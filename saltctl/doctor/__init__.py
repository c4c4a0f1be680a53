"""Doctor: what is asked (facts), what is made of it (checks), and the command that mends it (paste)."""
