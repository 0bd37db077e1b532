"""The program `inception-v3`, which is `python -m inception_v3` too."""

import signal


def main() -> None:
    """Run a command."""
    # While libraries are imported Ctrl-C has nothing to save: it ends the program, without a traceback through them.
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if plain:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from inception_v3 import cli

    if plain:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
