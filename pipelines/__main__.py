"""`python -m pipelines COMMAND`: another name of the program `slimrec`."""

from slimrec.cli import main as slimrec


def main(words: list[str] | None = None) -> None:
    """The same commands, the same exit classes."""
    slimrec(words, name="python -m pipelines")


if __name__ == "__main__":
    main()
