"""From a trained network to a small file that runs fast: packing and kernels."""
