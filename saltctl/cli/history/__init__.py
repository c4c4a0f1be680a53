"""Commands that read message histories: `history`."""
