"""Ingest in parts: byte for byte the dataset of one machine, however the files are shared out; and what it refuses."""

import itertools
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from kfp import dsl, local
from slimrec.pipelines import cluster
from slimrec.pipelines.audit import named
from slimrec.pipelines.fanout import ingest_in_parts
from slimrec.pipelines.sizes import PRESETS
from typer.testing import CliRunner

from slimrec import artifacts
from slimrec.cli import app
from slimrec.config import IngestConfig, PartConfig, PlannedConfig, Recipe, parse
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.data.plan import Plan
from slimrec.errors import ConfigError, InputError, SecurityError, TransientError
from slimrec.stages import count, encode, gather, ingest, merge, plan
from slimrec.track import Tracker
from tests import services

FIELDS = [
    {"name": "colour", "kind": "category", "min_count": 3},
    {"name": "half", "kind": "category", "hash_rows": 20},  # one value in each file
    {"name": "user_hash", "kind": "category", "column": "user", "hash_rows": 20},
    {"name": "price", "kind": "number"},
    {"name": "price_log", "kind": "number", "column": "price", "scale": "log"},
    {"name": "price_class", "kind": "number", "column": "price", "discretise": "log_square"},
    {"name": "price_bin", "kind": "number", "column": "price", "discretise": "quantile", "bins": 7},
]
LISTS = [
    {"name": "tags", "kind": "bag", "max_length": 2},
    {"name": "shape", "kind": "vector", "width": 3, "scale": "standard"},
]
SCHEMA = {"label": "click", "weight": "worth", "group": "user", "time": "hour", "fields": FIELDS + LISTS}
CUTS = (0, 1, 400, 407, 900, 1500)  # six uneven files, one of a single row


def rows(count: int = 1500, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    price = random.standard_normal(count) * 10.0 ** random.integers(-8, 8, count)
    return pd.DataFrame(
        {
            "click": random.integers(0, 2, count),
            "colour": [f"c{c}" for c in random.zipf(1.4, count) % 200],
            "price": np.where(random.random(count) < 0.1, np.nan, price),
            "tags": [list("abcdef"[: random.integers(0, 5)]) for _ in range(count)],
            "shape": list(random.standard_normal((count, 3))),
            "user": random.integers(0, 150, count),
            "hour": random.integers(0, 300, count),
            "worth": random.uniform(0, 3, count),
            "half": np.where(np.arange(count) < 900, "a", "b"),
        }
    )


def files(folder: Path, data: pd.DataFrame, kind: str = "parquet") -> Path:
    """The rows as one file after the other."""
    folder.mkdir(parents=True)
    for number, (start, stop) in enumerate(itertools.pairwise(CUTS)):
        piece = data[start:stop]
        if kind == "csv":
            piece.drop(columns=["tags", "shape"]).to_csv(folder / f"{number}.csv", index=False)
        else:
            table = pa.Table.from_pandas(piece, preserve_index=False)
            pq.write_table(
                table.set_column(2, "price", pa.array(piece["price"], from_pandas=True)), folder / f"{number}.parquet"
            )
    return folder


def config_of(source: Path | str, **values) -> IngestConfig:
    return parse(IngestConfig, {"source": str(source), "fields": SCHEMA, "batch_rows": 64, "shard_rows": 200, **values})


def alone(config: IngestConfig, folder: Path) -> tuple[Path, dict]:
    return folder / "alone", ingest.run(config, Tracker(), folder / "alone")


def counted(config: IngestConfig, folder: Path) -> list[Path]:
    """The plan, and the counts of its parts."""
    parts = plan.run(config, Tracker(), folder / "plan")["parts"]
    for part in range(parts):
        count.run(PartConfig(part=part), Tracker(), folder / "plan", folder / f"counts{part}")
    return [folder / f"counts{part}" for part in range(parts)]


def in_parts(config: IngestConfig, folder: Path) -> tuple[Path, dict]:
    """The dataset made step by step; what was made of the parts is handed on in reverse."""
    settings, tracker = PlannedConfig(), Tracker()
    counts = counted(config, folder)
    merge.run(settings, tracker, folder / "plan", counts[::-1], folder / "encoding")
    encoded = [folder / f"encoded{part}" for part in range(len(counts))]
    for part, made in enumerate(encoded):
        encode.run(PartConfig(part=part), tracker, folder / "plan", folder / "encoding", made)
    figures = gather.run(settings, tracker, folder / "plan", folder / "encoding", encoded[::-1], folder / "gathered")
    return folder / "gathered", figures


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(config: IngestConfig, folder: Path) -> Path:
    """Parts and one machine give the same bytes, the manifest's too, and the same figures."""
    (one, figures), (many, others) = alone(config, folder), in_parts(config, folder)
    assert content(many) == content(one)
    assert others == figures
    return many


@pytest.mark.parametrize("by", ["time", "group", "random"])
@pytest.mark.parametrize("parts", [2, 3, 100])
def test_any_number_of_parts_makes_the_dataset_of_one_machine(tmp_path, by, parts):
    source = files(tmp_path / "log", rows())
    made = assert_same(config_of(source, split={"by": by}, parts=parts), tmp_path)
    assert len(Plan.load(tmp_path / "plan").parts) == min(parts, 5)
    assert len(list((made / "train").iterdir())) > 3


@pytest.mark.parametrize("by", ["time", "random"])
def test_csv_is_shared_out_though_nobody_says_how_long_its_files_are(tmp_path, by):
    source = files(tmp_path / "log", rows(), "csv")
    assert_same(config_of(source, fields={**SCHEMA, "fields": FIELDS}, split={"by": by}, parts=3), tmp_path)


def test_parts_count_and_carry_the_labels_of_several_tasks_and_where_they_are_not_there(tmp_path):
    data = rows().assign(bought=lambda frame: np.where(frame["click"] == 1, frame["user"] % 2, np.nan))
    schema = {**{name: value for name, value in SCHEMA.items() if name != "label"}, "tasks": ["click", "bought"]}
    made = assert_same(
        config_of(files(tmp_path / "log", data), fields=schema, split={"by": "random"}, parts=3), tmp_path
    )
    split = Dataset.open(made).split("train")
    expected = data[["click", "bought"]].to_numpy(np.float32)[split.row]
    assert np.array_equal(split.label, expected, equal_nan=True)


def test_parts_read_a_bucket_as_they_read_a_folder(tmp_path, monkeypatch):
    source = files(tmp_path / "log", rows())
    with services.s3_server(tmp_path / "s3") as address:
        for name, value in {**services.KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        store = boto3.client("s3")
        store.create_bucket(Bucket="logs")
        for file in source.iterdir():
            store.upload_file(str(file), "logs", f"day/{file.name}")
        remote, _ = in_parts(config_of("s3://logs/day", parts=3), tmp_path / "remote")
    here, _ = alone(config_of(source), tmp_path)
    assert artifacts.digest(remote) == artifacts.digest(here)
    assert artifacts.verify(remote)["source"]["sha256"] == artifacts.verify(here)["source"]["sha256"]


@pytest.mark.battery
def test_pieces_of_the_planted_log_are_shared_out_too(tmp_path):
    config = IngestConfig(source="planted:rows=70000,seed=1", parts=2)
    made = assert_same(config, tmp_path)
    assert [part.start for part in Plan.load(tmp_path / "plan").parts] == [0, 65_536]
    assert artifacts.verify(made)["rows"]["train"] == 52_500


@pytest.mark.parametrize("limit", [1, 403, 407, 1000])
def test_rows_beyond_the_limit_are_read_by_nobody(tmp_path, limit):
    data = rows()
    data["click"] = np.arange(len(data)) % 2
    source = files(tmp_path / "log", data)
    config = config_of(source, max_rows=limit, parts=4, split={"by": "random"})
    if limit == 1:
        with pytest.raises(InputError, match="split '.*' gets none of the 1 rows|labels of the split"):
            in_parts(config, tmp_path)
        return
    assert_same(config, tmp_path)
    read = [file for part in Plan.load(tmp_path / "plan").parts for file in part.files]
    assert len(read) == {403: 3, 407: 3, 1000: 5}[limit]


def test_quantiles_of_a_sample_are_those_of_one_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("slimrec.data.fit._QUANTILE_ROWS", 90)
    monkeypatch.setattr("slimrec.data.split._TIME_ROWS", 300)
    assert_same(config_of(files(tmp_path / "log", rows()), parts=5), tmp_path)


def test_values_are_ranked_and_counted_over_all_parts(tmp_path):
    data = rows()
    source = files(tmp_path / "log", data)
    made, _ = in_parts(config_of(source, split={"by": "random"}, parts=5), tmp_path)
    held = np.concatenate([table["row"] for table in map(shard, sorted((made / "train").iterdir()))])
    seen = data["colour"].iloc[held].value_counts()
    often = seen[seen >= 3]
    wanted = sorted(often.index, key=lambda colour: (-often[colour], colour))
    assert Encoder.load(made).vocabularies["colour"] == wanted
    each = [data["colour"].iloc[held[(held >= a) & (held < b)]].value_counts() for a, b in itertools.pairwise(CUTS)]
    assert any(max(counts.get(colour, 0) for counts in each) < 3 for colour in wanted)  # often enough only together


def shard(path: Path) -> pa.Table:
    return pa.ipc.open_file(path).read_all()


def test_too_many_values_only_together_are_still_too_many(tmp_path):
    data = rows().assign(colour=[f"c{i}" for i in range(1500)])
    config = config_of(files(tmp_path / "log", data), max_vocabulary=600, split={"by": "random"}, parts=3)
    counts = counted(config, tmp_path)
    with pytest.raises(InputError, match="'colour' has more than 600 distinct values"):
        merge.run(PlannedConfig(), Tracker(), tmp_path / "plan", counts, tmp_path / "encoding")
    assert not (tmp_path / "encoding").exists()


def test_a_part_of_one_class_is_no_reason_to_refuse_the_log(tmp_path):
    data = rows()
    data.loc[: CUTS[2], "click"] = 1
    assert_same(config_of(files(tmp_path / "log", data), split={"by": "random"}, parts=5), tmp_path)
    data["click"] = 1
    counts = counted(config_of(files(tmp_path / "ones", data), split={"by": "random"}, parts=5), tmp_path)
    with pytest.raises(InputError, match="all .* labels of the split 'train' are 1"):
        merge.run(PlannedConfig(), Tracker(), tmp_path / "plan", counts, tmp_path / "other")


def test_parts_that_are_missing_twice_there_or_of_another_plan_are_refused(tmp_path):
    source = files(tmp_path / "log", rows())
    counts = counted(config_of(source, parts=3), tmp_path)
    other = counted(config_of(source, parts=3, seed=1), tmp_path / "other")
    for given, sentence in {
        (counts[0], counts[2]): r"counts of the parts \[0, 2\] came, of 0..2 one each",
        (*counts, counts[0]): None,  # the same folder again is the same part
        (*counts[:2], other[2]): "was made of another artifact than .*plan; make it again",
    }.items():
        if sentence:
            with pytest.raises(InputError, match=sentence):
                merge.run(PlannedConfig(), Tracker(), tmp_path / "plan", list(given), tmp_path / "encoding")
        else:
            merge.run(PlannedConfig(), Tracker(), tmp_path / "plan", list(given), tmp_path / "encoding")
    (counts[1] / "fields.json").write_text("{}")
    with pytest.raises(SecurityError, match="fields.json is not the file its manifest describes"):
        merge.run(PlannedConfig(), Tracker(), tmp_path / "plan", counts, tmp_path / "encoding")


def test_a_file_that_shrinks_between_the_passes_is_noticed_by_its_part(tmp_path):
    source = files(tmp_path / "log", rows())
    counts = counted(config_of(source, split={"by": "random"}, parts=3), tmp_path)
    merge.run(PlannedConfig(), Tracker(), tmp_path / "plan", counts, tmp_path / "encoding")
    last = source / "4.parquet"
    pq.write_table(pq.read_table(last).slice(1), last)
    with pytest.raises(TransientError, match="changed while it was read"):
        encode.run(PartConfig(part=2), Tracker(), tmp_path / "plan", tmp_path / "encoding", tmp_path / "encoded")
    assert not (tmp_path / "encoded").exists()


def test_a_part_reads_its_own_files_and_no_others(tmp_path):
    source = files(tmp_path / "log", rows())
    plan.run(config_of(source, parts=100), Tracker(), tmp_path / "plan")
    for number in (0, 1, 3, 4):
        (source / f"{number}.parquet").unlink()
    count.run(PartConfig(part=2), Tracker(), tmp_path / "plan", tmp_path / "counts")
    with pytest.raises(InputError, match="no such path: .*3.parquet"):
        count.run(PartConfig(part=3), Tracker(), tmp_path / "plan", tmp_path / "none")
    with pytest.raises(ConfigError, match="the plan has 5 parts, numbered from 0; there is no part 5"):
        count.run(PartConfig(part=5), Tracker(), tmp_path / "plan", tmp_path / "none")


def test_a_person_can_run_the_parts_by_hand(tmp_path):
    config = config_of(files(tmp_path / "log", rows()), parts=2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"ingest": config.model_dump(mode="json")}))

    def stage(name: str, *paths: str, part: int | None = None) -> None:
        words = [word for path in paths for word in ("--path", path.replace("=", f"={tmp_path}/"))]
        number = [] if part is None else ["--part", str(part)]
        done = CliRunner().invoke(app, ["stage", name, str(recipe), *words, *number], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    stage("plan", "plan=plan")
    for part in (0, 1):
        stage("count", "plan=plan", f"counts=counts{part}", part=part)
    stage("merge", "plan=plan", "counts+=counts0", "counts+=counts1", "encoding=encoding")
    for part in (0, 1):
        stage("encode", "plan=plan", "encoding=encoding", f"encoded=encoded{part}", part=part)
    stage("gather", "plan=plan", "encoding=encoding", "encoded+=encoded0", "encoded+=encoded1", "dataset=dataset")
    assert artifacts.digest(tmp_path / "dataset") == alone(config, tmp_path)[1]["fingerprint"]


@dsl.pipeline(name="only-ingest")
def only_ingest(config: dict, workspace: str):
    given = {"config": config, "fingerprint": ""}
    ingest_in_parts(named, given, {"workspace": workspace})


@pytest.mark.battery
@pytest.mark.filterwarnings("ignore:You may be attemping:RuntimeWarning")  # kfp doubts the image, which is not used
def test_the_fan_out_makes_the_same_dataset_here(tmp_path, monkeypatch):
    config = config_of(files(tmp_path / "log", rows()), parts=2)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "steps"))
    only_ingest(config=config.model_dump(mode="json", exclude_unset=True), workspace=str(tmp_path / "workspace"))
    (made,) = (tmp_path / "steps").glob("*/gather/dataset")
    assert content(made) == content(alone(config, tmp_path)[0])
    assert len(list((tmp_path / "steps").glob("*/for-loop-*/encode/encoded"))) == 2


@pytest.fixture
def compiled(tmp_path) -> tuple[dict, dict]:
    """The audit for a cluster, by a recipe that asks for parts, and what is asked of the cluster."""
    recipe = parse(Recipe, {"ingest": {"source": "s3://logs/day", "fields": SCHEMA, "parts": 8}})
    cluster.write(tmp_path / "audit.yaml", recipe, allow_tag=True)
    spec, platform = yaml.safe_load_all((tmp_path / "audit.yaml").read_text(encoding="utf-8"))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_a_recipe_that_asks_for_parts_gets_them_side_by_side_on_a_cluster(compiled):
    graphs = [part["dag"]["tasks"] for part in compiled[0]["components"].values() if "dag" in part]
    (tasks,) = [graph for graph in graphs if "gather" in graph]
    loops = {task["taskInfo"]["name"]: task for task in tasks.values() if "parameterIterator" in task}
    assert set(loops) == {"count-parts", "encode-parts"}
    for loop in loops.values():
        assert loop["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--plan-Output"}
    given = tasks["sample"]["inputs"]["artifacts"]["dataset"]["taskOutputArtifact"]
    assert given == {"outputArtifactKey": "dataset", "producerTask": "gather"}
    assert "ingest" not in tasks
    recipe = compiled[0]["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert recipe["ingest"]["parts"] == 8


def test_parts_are_placed_on_a_cluster_as_all_steps_are(compiled):
    spec, placed = compiled
    for name in ("plan", "count", "merge", "encode", "gather"):
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        assert container["resources"]["resourceMemoryLimit"] == PRESETS["S"]["data"].memory
        assert placed[f"exec-{name}"]["pvcMount"] and placed[f"exec-{name}"]["securityContext"]["runAsNonRoot"]
        assert {secret["secretName"] for secret in placed[f"exec-{name}"]["secretAsEnv"]} == set(cluster.SECRETS)
    tasks = [task for part in spec["components"].values() for task in part.get("dag", {}).get("tasks", {}).values()]
    asked = {task["taskInfo"]["name"]: task for task in tasks}
    for name in ("plan", "count", "merge", "encode", "gather"):
        assert asked[name]["retryPolicy"]["maxRetryCount"] == 4
        assert asked[name]["cachingOptions"]["enableCache"]
    assert "fingerprint" in asked["plan"]["inputs"]["parameters"]


def test_a_recipe_that_asks_for_none_has_one_step(tmp_path):
    recipe = parse(Recipe, {"ingest": {"source": "s3://logs/day", "fields": SCHEMA}})
    cluster.write(tmp_path / "audit.yaml", recipe, allow_tag=True)
    assert "exec-count" not in (tmp_path / "audit.yaml").read_text(encoding="utf-8")
