"""`python -m vbx`."""

from vbx.cli import main

if __name__ == "__main__":
    main()
