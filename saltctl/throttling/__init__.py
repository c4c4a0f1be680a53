"""DynamoDB throttling: its causes, and alarms on them."""
