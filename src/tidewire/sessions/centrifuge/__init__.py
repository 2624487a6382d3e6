"""Clients that speak the Centrifuge protocol: their sessions, and the orders of other nodes to these."""
