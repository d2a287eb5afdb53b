"""What a layer on bits computes: sizes, the steps around it, the bits of its weight, and a slow reference in torch."""
