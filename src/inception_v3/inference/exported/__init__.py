"""Exported files: networks that other programs run.

description.py is what a file records about its network, check.py compares the file with the network, base.py is the
interface of a format, registry.py lists the formats, and each format has a file.
"""
