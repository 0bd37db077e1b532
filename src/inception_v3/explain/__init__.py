"""What the network sees: receptive fields, feature maps, attribution, and two networks compared."""
