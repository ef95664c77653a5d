"""Training runs whose results the documentation shows."""
