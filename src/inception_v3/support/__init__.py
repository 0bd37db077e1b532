"""What every other folder may use: files, downloads, progress, devices, text, processes."""
