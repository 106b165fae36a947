"""Names the cause of a failure from what programs wrote about it: a closed catalogue, read from any text."""
