"""How much this process prints to stderr, as --quiet, --verbose and --log-every set it."""

from types import SimpleNamespace

# quiet: no progress and no notes. verbose: also details. started: time.monotonic() at the start of the command.
# log_every: seconds between two lines of progress where there is no terminal; 0: no such lines, as in a library.
verbosity = SimpleNamespace(quiet=False, verbose=False, started=0.0, log_every=0.0)
