"""New classes for a trained network: features once, then a new last layer, then layers below it if requested."""
