"""slimrec: audit a CTR model's input fields, prune it, prove that nothing was lost."""

__version__ = "0.1.0"
