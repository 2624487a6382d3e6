"""What a FastAPI application uses: the hub with its lifespan, verbs, rules, connections and routes."""

from tidewire.hub.hub import Hub

__all__ = ("Hub",)
