"""Training throughput of the whole model."""
