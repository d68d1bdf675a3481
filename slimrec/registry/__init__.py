"""Who reigns: versions of a model in MLflow, each judged against the champion, every move in a ledger."""
