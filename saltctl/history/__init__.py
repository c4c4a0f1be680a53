"""Message histories: salted writes and complete scatter-gather reads."""
