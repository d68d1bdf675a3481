"""Reading a dataset: every row once, the same stream for any number of ranks, exact resume, narrow and bounded reading."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from slimrec.batch import Batch
from slimrec.config import IngestConfig
from slimrec.data.dataset import Dataset
from slimrec.data.order import batch_count, rest_of
from slimrec.errors import ConfigError, InputError, SecurityError
from slimrec.stages import ingest

FIELDS = [
    {"name": "bag", "kind": "bag", "max_length": 3},
    {"name": "key", "kind": "category"},
    {"name": "number", "kind": "number", "scale": "none"},
    {"name": "vector", "kind": "vector", "width": 2},
]
ROWS = 5003


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Many small shards; `number` is the row's number, so that every row can be told."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "click": random.integers(0, 2, ROWS),
            "worth": random.uniform(0, 2, ROWS),
            "key": random.integers(0, 50, ROWS),
            "number": np.arange(ROWS),
            "vector": list(np.stack([np.arange(ROWS), -np.arange(ROWS)], axis=1).astype(float)),
            "bag": [list("abc"[: i % 4]) for i in range(ROWS)],
        }
    )
    pq.write_table(table, folder / "raw.parquet")
    config = IngestConfig(
        source=str(folder / "raw.parquet"),
        fields={"label": "click", "weight": "worth", "group": "key", "fields": FIELDS},
        shard_rows=500,
        batch_rows=200,
    )
    ingest.run(config, None, folder / "dataset")
    return folder / "dataset"


def stream(batches) -> list[int]:
    """The rows of the batches, in order, by the number they carry."""
    return [int(row) for batch in batches for row in batch.dense[:, 0].tolist()]


@pytest.mark.parametrize("shuffle", ["window", "none"])
@pytest.mark.parametrize(
    "batch_size, window_rows", [(64, 1000), (64, 64), (64, 10), (1000, 10**6), (7, 999), (10**5, 1)]
)
def test_an_epoch_delivers_each_row_once_and_only_the_last_batch_is_smaller(dataset, shuffle, batch_size, window_rows):
    train = Dataset.open(dataset).split("train")
    batches = list(train.batches(batch_size, shuffle=shuffle, window_rows=window_rows))
    assert sorted(stream(batches)) == train.row.tolist()
    assert {len(batch.label) for batch in batches[:-1]} <= {batch_size}
    assert len(batches) == batch_count(len(train), batch_size)
    assert len(batches[-1].label) <= max(batch_size, len(train) % batch_size) + 1


def test_the_values_of_a_row_stay_together(dataset):
    opened = Dataset.open(dataset)
    train = opened.split("train")
    raw = pq.read_table(dataset.parent / "raw.parquet").to_pandas()
    for batch in train.batches(128, seed=1, window_rows=700):
        rows = raw.iloc[batch.dense[:, 0].long().numpy()]
        assert np.array_equal(batch.label, rows["click"])
        assert np.array_equal(batch.weight, rows["worth"].to_numpy(np.float32))
        assert np.array_equal(batch.dense[:, 1:], np.stack(rows["vector"].to_list()))
        assert np.array_equal((batch.ids[:, :3] > 1).sum(1), rows["bag"].str.len())
    types = [column.dtype for column in batch]
    assert isinstance(batch, Batch) and types == [torch.int32, torch.float32, torch.float32, torch.float32]


def test_order_depends_on_seed_and_epoch_and_on_nothing_else(dataset):
    train = Dataset.open(dataset).split("train")
    streams = {
        (seed, epoch): stream(train.batches(64, seed=seed, epoch=epoch, window_rows=640))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in streams.values()}) == 4
    assert stream(Dataset.open(dataset).split("train").batches(64, window_rows=640)) == streams[0, 0]
    assert stream(train.batches(64, shuffle="none")) == train.row.tolist()


def test_windows_are_shuffled_within_and_among_themselves(dataset):
    train = Dataset.open(dataset).split("train", np.arange(3000))
    order = np.searchsorted(train.row, stream(train.batches(50, window_rows=500)))
    windows = order.reshape(6, 500)
    assert all(np.ptp(window) == 499 for window in windows)
    assert all(abs(np.corrcoef(window, np.arange(len(window)))[0, 1]) < 0.2 for window in windows)
    assert (np.diff([window.mean() for window in windows]) < 0).any() and windows[-1].max() == 2999


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_out_the_same_stream_whatever_their_number(dataset, world):
    train = Dataset.open(dataset).split("train")
    whole = list(train.batches(64, window_rows=640))
    shares = [list(train.batches(64, window_rows=640, rank=rank, world=world)) for rank in range(world)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        for column in range(4):
            assert torch.equal(torch.cat([part[column] for part in parts]), batch[column])
        assert max(len(p.label) for p in parts) - min(len(p.label) for p in parts) <= 1


@pytest.mark.parametrize(("rows", "world"), [(66, 4), (65, 2), (67, 8), (2, 3)])
def test_a_rank_without_two_rows_of_the_last_batch_gets_rows_of_that_batch_at_weight_0(dataset, rows, world):
    split = Dataset.open(dataset).split("train", np.arange(rows))
    *_, whole = split.batches(64, shuffle="none")
    lasts = [list(split.batches(64, shuffle="none", rank=rank, world=world))[-1] for rank in range(world)]
    assert all(len(part.label) >= 2 for part in lasts)
    assert sum(float(part.weight.sum()) for part in lasts) == pytest.approx(float(whole.weight.sum()))
    assert {row for part in lasts for row in stream([part])} <= set(stream([whole]))
    carrying = [row for part in lasts for row, weight in zip(stream([part]), part.weight) if weight]
    assert carrying == [row for row, weight in zip(stream([whole]), whole.weight) if weight]


@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 25, 58, 59, 1000])
def test_a_pass_resumes_at_any_batch(dataset, start):
    train = Dataset.open(dataset).split("train")
    whole = list(train.batches(64, epoch=2, window_rows=640))
    rest = list(train.batches(64, epoch=2, window_rows=640, start=start))
    assert stream(rest) == stream(whole[start:]) and len(rest) == len(whole[start:])


def test_a_subset_and_its_rest_share_out_the_rows(dataset):
    opened = Dataset.open(dataset)
    train = opened.split("train")
    rows = np.sort(np.random.default_rng(3).choice(len(train), 1000, replace=False))
    subset, rest = opened.split("train", rows), opened.split("train", rest_of(rows, len(train)))
    assert len(subset) == 1000 and len(rest) == len(train) - 1000
    assert np.array_equal(subset.label, train.label[rows]) and np.array_equal(subset.weight, train.weight[rows])
    assert np.array_equal(subset.group, train.group[rows])
    for window_rows in (100, 10**6):
        seen = stream(subset.batches(32, window_rows=window_rows)) + stream(rest.batches(32, window_rows=window_rows))
        assert sorted(seen) == train.row.tolist()
    assert stream(subset.batches(32, shuffle="none")) == train.row[rows].tolist()
    for wrong in ([2, 1], [0, len(train)], [-1, 3], [1, 1]):
        with pytest.raises(InputError, match="rows must ascend"):
            opened.split("train", np.array(wrong))


def test_a_single_left_over_row_joins_the_batch_before_it(dataset):
    opened = Dataset.open(dataset)
    assert [batch_count(rows, 10) for rows in (0, 1, 2, 10, 11, 12, 21)] == [0, 1, 1, 1, 1, 2, 2]
    for rows in (0, 1, 2, 20, 21, 22):
        split = opened.split("train", np.arange(rows))
        sizes = [len(batch.label) for batch in split.batches(10, window_rows=10)]
        assert len(sizes) == batch_count(rows, 10) and sum(sizes) == rows and (rows == 1 or 1 not in sizes)


def test_a_narrowed_dataset_reads_only_its_fields_and_reads_them_equal(dataset):
    whole, narrow = Dataset.open(dataset), Dataset.open(dataset, ["number", "key"])
    assert narrow.schema.names == ("key", "number")
    for full, part in zip(whole.split("valid").batches(64), narrow.split("valid").batches(64), strict=True):
        assert torch.equal(part.ids, full.ids[:, 3:4]) and torch.equal(part.dense, full.dense[:, :1])
    only_ids = next(Dataset.open(dataset, ["key"]).split("valid").batches(64))
    assert only_ids.dense.shape == (64, 0) and only_ids.ids.shape == (64, 1)
    with pytest.raises(ConfigError, match="no field 'kye'; did you mean 'key'"):
        Dataset.open(dataset, ["kye"])
    with pytest.raises(ConfigError, match="no split 'trian'; did you mean 'train'"):
        whole.split("trian")


def test_a_changed_byte_is_found_when_asked_for(dataset, tmp_path):
    for path in dataset.rglob("*"):
        if path.is_file():
            target = tmp_path / "copy" / path.relative_to(dataset)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert Dataset.open(tmp_path / "copy", check=True).fingerprint == Dataset.open(dataset).fingerprint
    shard = tmp_path / "copy" / "train" / "00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SecurityError, match="00001.arrow"):
        Dataset.open(tmp_path / "copy", check=True)
    with pytest.raises(InputError, match="no such file"):
        Dataset.open(tmp_path)


MEASURE = """
import re, sys
from pathlib import Path
from slimrec.data.dataset import Dataset
train = Dataset.open(sys.argv[1]).split("train")
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
for batch in train.batches(10, window_rows=10, start=1_400):
    first = batch
for rows in (1_000, 10**6):
    before, peak = anonymous(), 0
    for i, batch in enumerate(train.batches(100, window_rows=rows)):
        if i % 5 == 0:
            peak = max(peak, anonymous())
    print(peak - before)
"""


@pytest.mark.battery
def test_memory_is_bounded_by_the_window(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20_000, 256)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 256)
    pq.write_table(pa.table({"click": np.arange(20_000) % 2, "v": column}), tmp_path / "log.parquet")
    fields = {"label": "click", "fields": [{"name": "v", "kind": "vector", "width": 256}]}
    config = IngestConfig(source=str(tmp_path / "log.parquet"), fields=fields)
    ingest.run(config, None, tmp_path / "dataset")
    whole, window = 15_000 * 256 * 4 / 2**20, 1_000 * 256 * 4 / 2**20  # 15 and 1 MB
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "dataset")]
    some, everything = map(float, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert everything > 0.9 * whole
    assert some < 5 * window, (some, everything)
