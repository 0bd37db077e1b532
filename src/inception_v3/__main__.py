"""`python -m inception_v3` is `inception-v3`."""

from inception_v3.cli import main

main()
