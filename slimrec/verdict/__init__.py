"""What the slim model is worth beside the full one: the certificate, its costs, the diff to an earlier audit, the report."""
