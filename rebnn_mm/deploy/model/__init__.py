"""A built model and the tensors of a file, put together to the packed model."""
