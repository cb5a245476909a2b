"""`python -m vbx`."""

from vbx.cli import main

main()
