"""Tests of the ready server."""
