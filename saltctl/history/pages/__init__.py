"""Pages of a history: the rounds of queries, the ordered merge of their rows, and cursors."""
