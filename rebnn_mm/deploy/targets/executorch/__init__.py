"""Packed networks in ExecuTorch: 1-bit layers as a delegate, the rest through XNNPACK, without Python and torch.

``export_executorch`` writes a program (``.pte``), ``load_executorch`` runs one in Python; ``runtime/`` at the top of
the repository is the C++ library that runs them on phones, boards and servers. See docs/executorch.md.
"""
