"""New classes for a trained network in minutes: features once, a last layer on them, then layers below."""
