"""The parts that several stores have in common."""
