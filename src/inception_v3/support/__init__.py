"""Helpers that every other folder may use: files, downloads, progress bars, devices, text, processes."""
