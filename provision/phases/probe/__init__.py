"""The phase `probe`: what a host is. One script, one round trip, pure parsers; and the evidence of a failure."""
