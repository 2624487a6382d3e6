"""The examples: with the test kit, and in a browser."""
