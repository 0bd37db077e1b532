"""How much this process prints to stderr, as --quiet and --verbose set it."""

from types import SimpleNamespace

# quiet: no progress and no notes. verbose: also details. started: time.monotonic() at the start of the command.
verbosity = SimpleNamespace(quiet=False, verbose=False, started=0.0)
