"""The slim model as MLflow sees it: this file is logged as it stands (models-from-code), the weights lie beside it."""

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model


class SlimModel(mlflow.pyfunc.PythonModel):
    """Raw rows -> a column `probability`."""

    def load_context(self, context) -> None:
        """Load the slim folder, verified against its manifest."""
        from slimrec.serving.predictor import Predictor  # late: logging this file needs no torch

        self.predictor = Predictor.load(context.artifacts["slim"])

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """One probability a row; a missing column is an error, an unknown one is ignored."""
        return pd.DataFrame({"probability": self.predictor.predict(model_input)})


set_model(SlimModel())
