"""The network itself: its table, its layers, and the module built from them. Needs only PyTorch and NumPy."""
