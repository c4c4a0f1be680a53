"""The tables in DynamoDB, and CloudWatch."""
