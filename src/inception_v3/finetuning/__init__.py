"""Fine-tune a trained network to new classes: a new last layer on cached features, then more layers if requested."""
