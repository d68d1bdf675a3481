"""`python -m slimrec.cli COMMAND`, where the program `slimrec` is not on the path."""

from slimrec.cli import main

if __name__ == "__main__":
    main()
