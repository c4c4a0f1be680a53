"""Help: its layout, its topics, usage errors and completion."""
