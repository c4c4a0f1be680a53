"""Text formats of records: TSV and CSV for programs, tables and lines of fields for people."""
