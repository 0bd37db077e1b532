"""Patches: for each channel, the images and the positions that excite it most."""
