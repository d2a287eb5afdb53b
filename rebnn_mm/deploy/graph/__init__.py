"""Any network as a graph: captured, fused, stored and run."""
