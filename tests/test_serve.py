"""Serving raw rows: the same logits as in training, extra columns ignored, missing ones refused."""

import gzip
import io
import json
import os
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import small
import torch

from slimrec.data import files
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError, InputError, SecurityError
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.serving.output import Output
from slimrec.serving.predictor import Predictor, example_rows, predict_file


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small.make(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def predictor(world):
    return Predictor.load(world.slim)


@pytest.fixture
def rows():
    return small.raw_rows(500, seed=1)


def test_raw_rows_get_the_logits_that_training_saw(world, predictor):
    model = load_model(world.slim)
    test = Dataset.open(world.dataset, fields=model.schema.names).split("test")
    raw = pq.read_table(world.raw).take(test.row)
    assert np.abs(predictor.logits(raw) - score(model, test)).max() < 1e-6


def test_probabilities_are_the_logistic_of_the_logits(predictor, rows):
    expected = torch.sigmoid(torch.from_numpy(predictor.logits(rows))).numpy()
    assert predictor.predict(rows) == pytest.approx(expected, abs=1e-12)


def test_pandas_and_arrow_rows_score_alike(predictor, rows):
    assert predictor.predict(rows.to_pandas()) == pytest.approx(predictor.predict(rows), abs=0)


def test_order_of_columns_and_rows_sent_alone_change_nothing(predictor, rows):
    expected = predictor.predict(rows)
    assert (predictor.predict(rows.select(rows.column_names[::-1])) == expected).all()
    alone = [predictor.predict(rows.slice(i, 1))[0] for i in range(20)]
    assert alone == pytest.approx(expected[:20], abs=1e-6)


def test_more_rows_than_are_scored_at_once_come_back_in_order(predictor, rows):
    many = pa.concat_tables([rows] * 40)  # 20,000 rows
    assert predictor.predict(many) == pytest.approx(np.tile(predictor.predict(rows), 40), abs=1e-6)


def test_columns_of_dropped_fields_are_ignored_and_counted(world, rows):
    predictor = Predictor.load(world.slim)
    needed = rows.select(["device", "price", "embedding", "tags"])
    assert (predictor.predict(needed) == predictor.predict(rows)).all()
    assert predictor.ignored == dict.fromkeys(["click", "worth", "user", "noise", "unread"], 500)


def test_a_missing_needed_column_is_refused_by_name(predictor, rows):
    with pytest.raises(InputError, match=r"the rows lack 'device', 'tags'; the model needs"):
        predictor.predict(rows.drop_columns(["tags", "device"]))
    with pytest.raises(InputError, match="'price' more than once"):
        predictor.predict(rows.append_column("price", rows["price"]))


def test_unreadable_values_are_refused_with_their_row(predictor, rows):
    price = rows["price"].to_pylist()
    price[321] = float("inf")
    with pytest.raises(InputError, match="row 322.*'price'"):
        predictor.predict(rows.set_column(4, "price", [price]))
    with pytest.raises(InputError, match="mixes types"):
        predictor.predict(pd.DataFrame({**rows.to_pandas(), "device": [1, "two"] * 250}))


def test_unseen_and_missing_values_are_scored(predictor, rows):
    frame = rows.slice(0, 3).to_pandas()
    frame["device"], frame["price"], frame["tags"] = ["never seen", None, ""], [None, 1.0, 2.0], [[], None, ["?"]]
    assert np.isfinite(predictor.predict(frame)).all()


def test_no_rows_give_no_probabilities(predictor, rows):
    assert predictor.predict(rows.slice(0, 0)).shape == (0,)


def test_example_rows_are_rows_that_the_model_accepts(predictor):
    frame = example_rows(predictor.encoder)
    assert list(frame.columns) == ["device", "embedding", "price", "tags"]
    assert np.isfinite(predictor.predict(frame)).all() and len(set(predictor.predict(frame))) == 3


def test_files_score_like_rows_in_memory(world, predictor, rows, tmp_path, capsys):
    expected = predictor.predict(rows)
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=70)
    for name, read in (("out.parquet", pq.read_table), ("out.csv", pyarrow.csv.read_csv)):
        predict_file(world.slim, tmp_path / "rows.parquet", tmp_path / name)
        assert read(tmp_path / name)["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    predict_file(world.slim, tmp_path / "rows.parquet")
    assert [float(line) for line in capsys.readouterr().out.split()] == pytest.approx(expected, abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.parquet", "rows.parquet"]


def test_scores_with_nowhere_to_go_are_refused(world, rows, tmp_path, monkeypatch):
    pq.write_table(rows, tmp_path / "rows.parquet")
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where a shell closed it
    with pytest.raises(ConfigError, match="give --output FILE"):
        predict_file(world.slim, tmp_path / "rows.parquet")


def test_keys_say_whose_score_it_is(world, predictor, rows, tmp_path, capsys):
    names = [f'"{i}", the {i:03d}th' for i in range(len(rows))]
    keyed = rows.append_column("row, id", pa.array(names)).append_column("day", pa.array(range(len(rows)), pa.int32()))
    pq.write_table(keyed, tmp_path / "rows.parquet", row_group_size=70)
    expected, keys = predictor.predict(rows), ["row, id", "device", "day"]
    for name, read in (("out.parquet", pq.read_table), ("out.csv", pyarrow.csv.read_csv)):
        predict_file(world.slim, tmp_path / "rows.parquet", tmp_path / name, keys)
        found = read(tmp_path / name)
        assert found.column_names == [*keys, "probability"] and found["row, id"].to_pylist() == names
        assert found["device"].to_pylist() == rows["device"].to_pylist()
        assert found["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert pq.read_schema(tmp_path / "out.parquet").field("day").type == pa.int32()
    predict_file(world.slim, tmp_path / "rows.parquet", None, ["day"])
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[0] == "day,probability"
        and shown[8].startswith(f"7,{expected[7]:.6g}"[:6])
        and len(shown) == len(rows) + 1
    )


def test_keys_of_a_csv_stay_the_text_that_they_are(tmp_path):
    dropped = ("embedding", "tags", "noise", "user_id", "device_again")
    world = small.make(tmp_path, dropped, rows=600)
    (tmp_path / "rows.csv").write_text("price,device,id\n1.5,phone 1,007\n2.5,phone 2,1e3\n", encoding="utf-8")
    predict_file(world.slim, tmp_path / "rows.csv", tmp_path / "out.csv", ["id"])
    assert [line.split(",")[0].strip('"') for line in (tmp_path / "out.csv").read_text().splitlines()[1:]] == [
        "007",
        "1e3",
    ]


def test_keys_that_cannot_be_are_refused_before_anything_is_written(world, rows, tmp_path):
    (tmp_path / "log").mkdir()
    for i, kind in enumerate((pa.int64(), pa.string())):
        part = rows.append_column("id", pa.array(range(len(rows))).cast(kind)).append_column(
            "probability", rows["price"]
        )
        pq.write_table(part, tmp_path / "log" / f"{i}.parquet")
    for key, error, words in (
        ("idd", InputError, "did you mean 'id'"),
        ("id", InputError, "the key 'id' is string in .*1.parquet and int64 in .*0.parquet"),
        ("probability", ConfigError, "rename the column"),
        ("tags", ConfigError, "'tags' holds lists, which CSV cannot"),
    ):
        with pytest.raises(error, match=words):
            predict_file(world.slim, tmp_path / "log", tmp_path / "out.csv", [key])
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_csv_cells_mean_what_they_meant_in_training(tmp_path):
    dropped = ("embedding", "tags", "noise", "user_id", "device_again")
    world = small.make(tmp_path, dropped, rows=1500)
    rows = small.raw_rows(200, seed=2).select(["price", "device", "noise"])
    pyarrow.csv.write_csv(rows, tmp_path / "rows.csv")
    predict_file(world.slim, tmp_path / "rows.csv", tmp_path / "out.csv")
    found = pyarrow.csv.read_csv(tmp_path / "out.csv")["probability"].to_numpy()
    assert found == pytest.approx(Predictor.load(world.slim).predict(rows), abs=1e-6)


def test_files_without_a_needed_column_leave_nothing_behind(world, rows, tmp_path):
    pq.write_table(rows.drop_columns(["price"]), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("device,tags\nphone 1,3\n")
    (tmp_path / "bare.csv").write_text("phone 1,3\nphone 2,4\n")
    for name, looks in (("rows.parquet", ""), ("rows.csv", ""), ("bare.csv", "looks like data")):
        with pytest.raises(InputError, match=f"the rows of .*{name} lack .*price.*{looks}"):
            predict_file(world.slim, tmp_path / name, tmp_path / "out.csv")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:500])
    with pytest.raises(InputError, match="cut.parquet"):
        predict_file(world.slim, tmp_path / "cut.parquet", tmp_path / "out.csv")
    many = pa.concat_tables([rows] * 40)
    price = np.where(np.arange(len(many)) == 17_000, np.inf, many["price"])
    pq.write_table(many.set_column(many.column_names.index("price"), "price", [price]), tmp_path / "late.parquet")
    with pytest.raises(InputError, match="late.parquet, row 17001"):
        predict_file(world.slim, tmp_path / "late.parquet", tmp_path / "out.csv")
    with pytest.raises(InputError, match="no such path"):
        predict_file(world.slim, tmp_path / "none.csv", tmp_path / "out.csv")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_changed_byte_in_the_model_is_refused(world, tmp_path):
    import shutil

    folder = shutil.copytree(world.slim, tmp_path / "slim")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(SecurityError, match="model.safetensors"):
        Predictor.load(folder)


def test_the_model_folder_holds_only_plain_data(world):
    kinds = {path.suffix for path in world.slim.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".parquet"}
    assert json.loads((world.slim / "manifest.json").read_text())["kind"] == "slim"


@pytest.mark.parametrize(
    "name, read",
    [
        ("s.pq", pq.read_table),
        ("s.PARQUET", pq.read_table),
        ("s.Csv", pyarrow.csv.read_csv),
        ("s.csv.gz", lambda path: pyarrow.csv.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())))),
    ],
)
def test_scores_are_written_as_their_file_is_named(world, predictor, rows, tmp_path, name, read):
    pq.write_table(rows, tmp_path / "rows.parquet")
    predict_file(world.slim, tmp_path / "rows.parquet", tmp_path / name)
    assert read(tmp_path / name)["probability"].to_numpy() == pytest.approx(predictor.predict(rows), abs=1e-6)


@pytest.mark.parametrize(
    "name, sentence", [("s.txt", "written as .parquet"), ("s", "written as"), ("no/s.csv", "no such folder")]
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(tmp_path, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        predict_file(tmp_path / "no model", tmp_path / "no rows", tmp_path / name)
    with pytest.raises(ConfigError, match="is a folder"):
        predict_file(tmp_path / "no model", tmp_path / "no rows", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_come_as_a_frame_or_as_what_arrow_can_take_over(predictor, rows):
    expected = predictor.predict(rows)
    batch = rows.combine_chunks().to_batches()[0]
    for other in (batch, rows.to_reader()):
        assert predictor.predict(other) == pytest.approx(expected)
    for other in (
        rows.to_pylist(),
        rows.to_pylist()[0],
        None,
        "rows.parquet",
        (row for row in rows.to_pylist()),
        expected,
    ):
        with pytest.raises(InputError, match=f"DataFrame.* got .*{type(other).__name__}"):
            predictor.predict(other)


@pytest.mark.parametrize("value", [2**70, "\ud800", object(), 1 + 2j])
def test_a_value_that_cannot_be_is_named_with_its_column(predictor, rows, value):
    name = predictor.columns[-1]
    frame = rows.to_pandas()
    frame[name] = pd.Series([value] * len(frame), dtype=object)
    with pytest.raises(InputError, match=f"column '{name}'"):
        predictor.predict(frame)


def test_scores_never_take_the_place_of_the_log_that_they_are_of(world, rows, tmp_path):
    log, link, folder = tmp_path / "rows.parquet", tmp_path / "link.parquet", tmp_path / "log"
    pq.write_table(rows, log)
    link.symlink_to(log)
    folder.mkdir()
    shutil.copy(log, folder / "a.parquet")
    for read, output in (
        (log, log),
        (log, link),
        (link, log),
        (folder, folder / "a.parquet"),
        (folder, folder / "new.csv"),
    ):
        with pytest.raises(ConfigError, match="write elsewhere"):
            predict_file(world.slim, read, output)
    assert pq.read_table(log).equals(pq.read_table(folder / "a.parquet")) and len(list(folder.iterdir())) == 1
    predict_file(world.slim, folder, tmp_path / "beside.csv")


@pytest.mark.parametrize(
    "address", ["s3://bucket/scores.csv", "s3:/bucket/scores.csv", "S3://b/s.csv", "file:///tmp/s.csv"]
)
def test_scores_go_to_a_file_and_to_no_address(tmp_path, address):
    with pytest.raises(ConfigError, match="a file of this machine, got '.*s.csv'"):
        predict_file(tmp_path / "no model", tmp_path / "no rows", address)


def test_links_are_followed_and_keep_the_rights_of_the_file_behind_them(world, rows, tmp_path):
    pq.write_table(rows, tmp_path / "rows.parquet")
    target, link, dangling = tmp_path / "elsewhere" / "target.csv", tmp_path / "link.csv", tmp_path / "new.csv"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    dangling.symlink_to(target.with_name("made.csv"))
    for output in (link, dangling):
        predict_file(world.slim, tmp_path / "rows.parquet", output)
        assert output.is_symlink() and len(pyarrow.csv.read_csv(output)) == len(rows)
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in target.parent.iterdir()) == ["made.csv", "target.csv"]


@pytest.mark.parametrize("ending", ["", ".csv", ".csv.gz", ".parquet"])
def test_pipes_are_written_through_and_stay_pipes(world, rows, tmp_path, ending):
    pq.write_table(rows, tmp_path / "rows.parquet")
    pipe = tmp_path / f"pipe{ending}"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        came = pool.submit(pipe.read_bytes)
        predict_file(world.slim, tmp_path / "rows.parquet", pipe)
        content = came.result()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    if ending == ".parquet":
        assert len(pq.read_table(pa.BufferReader(content))) == len(rows)
    else:
        text = gzip.decompress(content) if ending == ".csv.gz" else content
        assert len(text.splitlines()) == len(rows) + 1


def test_what_was_new_to_the_model_is_told_and_a_warning_given_where_it_is_far_more_than_in_training(
    world, rows, tmp_path, capsys
):
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert predict_file(world.slim, tmp_path / "rows.parquet", tmp_path / "s.csv").shares()["device"] == 0
    assert capsys.readouterr().err == "scored 500 rows; values new to the model: none\n"
    strange = rows.set_column(rows.column_names.index("device"), "device", [[f"PHONE {i % 12}" for i in range(500)]])
    pq.write_table(strange, tmp_path / "rows.parquet")
    shares = predict_file(world.slim, tmp_path / "rows.parquet", tmp_path / "s.csv").shares()
    assert shares == {"device": 1.0, "embedding": 0.0, "price": 0.0, "tags": 0.0}
    told, warned = capsys.readouterr().err.splitlines()
    assert told == "scored 500 rows; values new to the model: device 100.00%"
    assert warned.startswith("mind: 100.0% of the values of 'device' are new to the model, in training 0.0% were")


def test_a_field_that_was_as_new_in_training_is_no_reason_to_warn(tmp_path):
    world = small.make(tmp_path, dropped=("device_again", "tags"))
    schema = Predictor.load(world.slim).encoder.schema
    assert 0.05 < schema["user_id"].statistics.unseen_share < 0.3  # a user of the test rows was often not in train
    predictor = Predictor.load(world.slim)
    test = pq.read_table(world.raw).take(Dataset.open(world.dataset).split("test").row)
    predictor.predict(test)
    assert predictor.novelty.shares()["user_id"] == pytest.approx(schema["user_id"].statistics.unseen_share, abs=0.02)
    assert predictor.novelty.far(schema) == {}


def test_numbers_beyond_64_bits_in_a_frame_end_in_a_sentence(predictor, rows):
    frame = rows.to_pandas().astype({"device": object})
    frame.loc[3, "device"] = 2**70
    frame["device"] = [2**70, *range(499)]
    with pytest.raises(InputError, match="beyond 64 bits.*strings"):
        predictor.predict(frame)


def test_a_parquet_that_gives_fewer_rows_than_it_says_is_refused(world, rows, tmp_path, monkeypatch):
    pq.write_table(rows, tmp_path / "rows.parquet")
    inspect = files.inspect
    monkeypatch.setattr(files, "inspect", lambda *given: (inspect(*given)[0], 501))  # what a damaged footer says
    with pytest.raises(InputError, match="says that it has 501 rows, and gave 500"):
        predict_file(world.slim, tmp_path / "rows.parquet", tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_scores_do_not_replace_a_link_that_leads_to_itself(tmp_path):
    (tmp_path / "a.csv").symlink_to(tmp_path / "b.csv")
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="leads to itself"):
        Output(tmp_path / "a.csv")
