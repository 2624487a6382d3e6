"""Clients that speak the Centrifuge protocol: their sessions, and what other nodes may ask of these."""
