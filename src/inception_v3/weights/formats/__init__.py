"""The file formats of Inception V3's weights, one file each; registry.py lists them.

A format's file ends with `FORMAT`, an object with everything that the rest of the package knows about the format
(see base.py). To add a format, write such a file and add its name to the list in registry.py.
"""
