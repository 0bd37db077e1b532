"""Training by a recipe, never losing work: `train.train` is the loop, from top to bottom."""
