"""The slim model as MLflow sees it: this file is logged as it stands (models-from-code), the weights lie beside it."""

import logging

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model


class SlimModel(mlflow.pyfunc.PythonModel):
    """Raw rows -> a column `probability`, or `probability_` and its name for each of several tasks."""

    def load_context(self, context) -> None:
        """Load the slim folder, verified against its manifest."""
        from slimrec.serving.predictor import Predictor  # late: logging this file needs no torch

        self.predictor = Predictor.load(context.artifacts["slim"])
        self.warned: set[str] = set()

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """One probability a row and label; a missing column is an error, an unknown one is ignored.

        What is wrong with the rows is MLflow's INVALID_PARAMETER_VALUE (HTTP 400), with our sentence as its message. A
        field whose values are new to the model far more often than in training is told once, in the server's log.
        """
        from slimrec.errors import InputError

        try:
            found = self.predictor.predict(model_input)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        for name, sentence in self.predictor.novelty.far(self.predictor.encoder.schema).items():
            if name not in self.warned:
                self.warned.add(name)
                logging.getLogger("slimrec").warning(sentence)
        return pd.DataFrame(found.reshape(len(found), -1), columns=list(self.predictor.scores))


set_model(SlimModel())
