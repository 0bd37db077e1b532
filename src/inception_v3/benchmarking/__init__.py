"""The table of this machine: engines, precisions and other programs, in turns."""
