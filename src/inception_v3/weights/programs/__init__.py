"""The other programs with an Inception V3: how each loads a file that was written for it, and runs its network.

program.py starts a process of any Python that has the program. There runner.py calls the script of that program,
run_<program>.py. Neither imports anything of this project, which the other Python need not have.
"""
