"""Tokens that applications sign for their clients: verified, and made into identities."""
