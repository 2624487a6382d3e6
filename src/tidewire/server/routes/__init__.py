"""The HTTP routes of the ready server."""
