"""Image files: find them, decode them, and prepare them for the network."""
