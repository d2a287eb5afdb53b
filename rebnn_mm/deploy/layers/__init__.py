"""Layers that run: plans, prepared once and called often, and the torch operators and modules that hold them."""
