"""What a model costs: parameters, MACs, memory, latency."""
