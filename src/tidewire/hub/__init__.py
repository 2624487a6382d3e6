"""The hub that a FastAPI application uses, with its lifespan, verbs, rules, connections and routes."""

from tidewire.hub.hub import Hub

__all__ = ("Hub",)
