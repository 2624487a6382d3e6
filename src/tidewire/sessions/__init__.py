"""Sessions: the layer between one client and the engine."""
