"""The workflow as a Kubeflow pipeline: `python -m pipelines compile | run | submit`."""
