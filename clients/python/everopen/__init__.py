"""Python client of everopen, the order engine."""
