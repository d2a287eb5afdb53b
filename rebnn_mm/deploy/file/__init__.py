"""The ``.rebnn`` file: the container, the values of its header, and the card that describes the model."""
