"""The other programs with an Inception V3: how each loads a file that was written for it, and runs its network.

peers.py has the table of programs. program.py runs peers.py with any Python that has the program.
"""
