"""The other programs with an Inception V3, run on a file that was written for them, to compare their outputs.

program.py starts a process of any Python that has the program. There runner.py calls the script of that program,
run_<program>.py. Neither imports anything of this project, which the other Python need not have.
"""
