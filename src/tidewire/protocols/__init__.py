"""Protocols turn frames into commands, and replies and pushes into frames. They do no I/O."""
