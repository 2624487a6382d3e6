"""The view of a running system: figures of all nodes, connections, channels, and reasons."""
