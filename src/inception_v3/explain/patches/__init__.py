"""Patches: for each channel, the images and the places that excite it most."""
