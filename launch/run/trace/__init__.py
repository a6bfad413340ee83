"""`launch trace`: from a report back to the bytes that its numbers were made from."""
