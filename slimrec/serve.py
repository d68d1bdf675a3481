"""Where models that 0.1.0 registered look for their predictor; it lives in `slimrec.serving`."""

from slimrec.serving.predictor import Predictor

__all__ = ["Predictor"]
