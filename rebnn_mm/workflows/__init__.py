"""What the tools call: training, testing, export, inference, and what is checked before; no library is adapted here."""
