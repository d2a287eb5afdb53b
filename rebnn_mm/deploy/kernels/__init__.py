"""The native library of packed kernels: C++17 sources, and what finds and calls the built library."""
