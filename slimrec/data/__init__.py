"""From raw logs to batches.

Reading: `storage` (local, S3) -> `files` (Parquet, CSV) -> `source` (all files of a log) -> `values`, `keys` (checked
columns). Ingest: `split`, `fit` (vocabularies, scales), `encode` (raw value -> id, the same for serving), `shards`.
Training: `dataset` (shards -> batches). Beside the road: `draft` (a first schema), `planted` (a log whose truth is
known), `hashing` (stable hashes and permutations).
"""
