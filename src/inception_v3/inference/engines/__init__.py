"""Engines run the network. All take the same pixels and return the same outputs.

base.py is the interface, registry.py lists the engines, and each engine has a file. graph.py is the network that they
run: folded, and free of PyTorch.

A new engine is a subclass of `Engine` in a new file, and a line in registry.py. The command line, the choice of the
fastest engine and the benchmark read its class attributes.
"""
