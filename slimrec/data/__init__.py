"""From raw logs to batches.

Reading: `storage` (local, S3) -> `files` (Parquet; CSV by `text`) -> `source` (all files of a log) -> `values`, `keys`
(checked columns). Every value of a category has one spelling, its key, in training and in serving, by whatever type,
unit, zone or file it comes: `spelling` has the table. Ingest: `plan` (who reads what), `split`, `fit` (vocabularies,
scales), `moments` (exact sums), `fair` (samples of rows), `varying` (whether rows differ), `outliers` (numbers far
off), `encode` (raw value -> id, the same for serving), `novelty` (what training did not see), `repeats` (copies of
rows), `shards`. Training: `dataset` (shards -> batches). Beside the road: `draft` (a first schema, from what
`sampling`, `dialect` and `looks` see), `planted` (a log whose truth is known), `hashing` (stable hashes and
permutations).
"""
