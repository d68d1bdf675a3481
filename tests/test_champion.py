"""The champion on the rows of another audit: read again from the source, in whatever pieces it lies, or refused with the reason."""

import dataclasses
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small

from slimrec.artifacts import publish
from slimrec.config import EvaluateConfig, IngestConfig, ModelConfig
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.errors import InputError
from slimrec.model import build
from slimrec.model.files import save_model
from slimrec.registry import champion, promotion
from slimrec.registry.champion import Champion
from slimrec.serving.predictor import Predictor
from slimrec.stages import ingest
from slimrec.track import Tracker


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """A model as it was drawn, of another log: what it has learnt does not matter here."""
    folder = tmp_path_factory.mktemp("champion")
    small.ingest_rows(folder, rows=600)
    schema = Dataset.open(folder / "dataset").schema
    model = build(schema, ModelConfig(embedding_dim=4, options={"hidden": [8]}), seed=1)
    with publish(folder / "slim", "slim") as scratch:
        save_model(model, scratch, Encoder.load(folder / "dataset"))
    return folder / "slim"


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """Another log of 600 rows and its dataset, the log cut anew: between pieces with test rows lies one without any."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "log").mkdir()
    table = small.raw_rows(600, seed=1)
    pq.write_table(table, folder / "log" / "0.parquet")
    split = {"by": "random", "train": 0.5, "gate": 0.0, "valid": 0.2, "test": 0.3}
    config = IngestConfig(source=str(folder / "log"), fields=small.FIELDS, split=split)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    rows = np.sort(Dataset.open(folder / "dataset").split("test").row)
    before = int(np.diff(rows).argmax())
    cuts = [0, int(rows[before]) + 1, int(rows[before + 1]), int(rows[-1]) + 1, 600]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        pq.write_table(table.slice(start, stop - start), folder / "log" / f"{number}.parquet")
    return folder, table, cuts


def test_the_test_rows_are_found_wherever_they_lie_in_the_source_and_scored_as_by_the_model_itself(slim, audit):
    folder, table, cuts = audit
    assert len(set(cuts)) >= 4
    test = Dataset.open(folder / "dataset").split("test")
    expected = Predictor.load(slim).predict(table.take(pa.array(test.row)))
    for given in (test, None):
        logits, strange = champion.score(slim, folder / "dataset", given)
        assert 1 / (1 + np.exp(-logits)) == pytest.approx(expected, abs=1e-6) and strange == []


def test_what_a_process_apart_wrote_is_what_it_found(slim, audit, tmp_path):
    folder, *_ = audit
    champion.write_scores(str(slim), str(folder / "dataset"), str(tmp_path))
    (logits, strange), (expected, _) = champion.read_scores(tmp_path), champion.score(slim, folder / "dataset")
    assert np.array_equal(logits, expected) and logits.dtype == np.float64 and strange == []


@pytest.mark.parametrize(("label", "said"), [(None, "is no longer the log that was ingested: run the audit"), (7, "")])
def test_a_label_that_was_changed_since_the_audit_is_refused_and_one_that_is_none_by_its_row(
    slim, audit, tmp_path, label, said
):
    folder, table, cuts = audit
    row = cuts[1] - 1  # the last of the first piece, a test row
    labels = table["click"].to_pylist()
    labels[row] = 1 - labels[row] if label is None else label
    file = folder / "log" / "0.parquet"
    kept = shutil.copy(file, tmp_path / "kept")
    changed = table.set_column(table.column_names.index("click"), "click", pa.array(labels))
    pq.write_table(changed.slice(0, cuts[1]), file)
    try:
        with pytest.raises(InputError, match=said or rf"0\.parquet, row {row + 1}\b"):
            champion.score(slim, folder / "dataset")
    finally:
        shutil.copy(kept, file)


def test_a_log_that_ends_before_its_last_test_row_is_no_longer_the_one_that_was_ingested(slim, audit, tmp_path):
    folder, *_ = audit
    file = folder / "log" / "2.parquet"
    kept = shutil.move(file, tmp_path / "kept")
    try:
        with pytest.raises(InputError, match="no longer the log that was ingested"):
            champion.score(slim, folder / "dataset")
    finally:
        shutil.move(kept, file)


def test_a_verdict_that_nothing_is_strange_about_minds_nothing(slim, audit):
    folder, *_ = audit
    test = Dataset.open(folder / "dataset").split("test")
    reigning = Champion("ctr", "1", slim, slim, None, None)
    found = champion.judge(
        EvaluateConfig(), reigning, folder / "dataset", test, champion.score(slim, folder / "dataset")[0]
    )
    assert "mind" not in found["reason"] and found["model"] == "ctr" and found["version"] == "1"
    assert abs(found["auc"]["difference"]) < 1e-12 and found["auc"]["champion"] == found["auc"]["slim"]


def test_only_what_is_surely_below_one_half_ranks_worse_than_chance(audit):
    folder, *_ = audit
    test = Dataset.open(folder / "dataset").split("test")
    turned = 1.0 - 2 * test.label
    assert champion._worse_than_chance(test, turned, 0.95) is True
    assert not champion._worse_than_chance(test, -turned, 0.95)
    assert not champion._worse_than_chance(test, np.zeros(len(test)), 0.95)
    noise = np.random.default_rng(0).normal(size=len(test))
    assert not champion._worse_than_chance(test, noise + 0.05 * turned, 0.95)
    clicked = Dataset.open(folder / "dataset").split("test", rows=np.flatnonzero(test.label == 1))
    assert not champion._worse_than_chance(clicked, np.arange(len(clicked)) * 1.0, 0.95)  # of one class: no AUC at all


def test_nobody_reigns_over_no_name_or_without_a_registry(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert champion.reigning("ctr", tmp_path) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # which nobody asks
    assert champion.reigning("", tmp_path) is None


def test_what_is_told_of_champions_and_moves_cannot_be_changed(slim):
    told = [
        (Champion("ctr", "1", slim, slim, None, None), "version"),
        (promotion.Move("ctr", "1", "2", moved=True), "after"),
        (promotion.History([], "1", []), "champion"),
    ]
    for one, name in told:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, "9")
