"""Training with a recipe. `train.train` is the loop; the other modules hold its parts."""
