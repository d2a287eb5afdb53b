"""A page to look at a model with: drop a picture, see boxes or labels. Behind ``rebnn demo``."""
