"""Raw rows to probabilities: by file, by table, and as MLflow serves them."""
