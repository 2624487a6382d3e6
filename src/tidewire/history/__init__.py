"""Reads of history as readers are shown it: in pages, shared by all that wait, joined with new publications."""
