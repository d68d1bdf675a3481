"""The model: embedding arena -> gate -> backbone, cut exactly to a selection; its files."""

from slimrec.model.arena import Arena
from slimrec.model.model import Model, build, with_gate

__all__ = ["Arena", "Model", "build", "with_gate"]
