"""The ready server, built only on the public API."""
