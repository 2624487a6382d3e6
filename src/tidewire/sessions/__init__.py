"""Sessions: what stands between one client and the engine."""
