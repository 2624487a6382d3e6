"""The Centrifuge client protocol: its messages, two encodings of them, deltas, filters by tag, and its codes. Pure."""
