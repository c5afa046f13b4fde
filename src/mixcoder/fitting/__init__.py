"""ALTERNATION: start, encode and maximise in turn, accelerate, stop."""
