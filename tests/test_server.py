"""The registry as a team has it: an MLflow server on PostgreSQL, artifacts and logs on S3, clients that share nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import services
import small
from mlflow import MlflowClient
from test_promotion import champion_of, kinds, race_for_champion, race_for_entries, register
from test_reaudit import audit

from slimrec.data.dataset import Dataset
from slimrec.data.planted import generate
from slimrec.errors import ConflictError, SecurityError
from slimrec.registry import promotion, versions
from slimrec.serving.predictor import Predictor

pytestmark = pytest.mark.battery
ROWS = 12_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """All three as processes; the environment leads there. Yields the server's address."""
    folder = tmp_path_factory.mktemp("server")
    with (
        services.postgresql("slimrec", "canary") as database,
        services.s3_server(folder) as store,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**services.KEYS, "AWS_ENDPOINT_URL": store, "MLFLOW_S3_ENDPOINT_URL": store}.items():
            patch.setenv(name, value)
        for bucket in ("mlflow", "logs"):
            boto3.client("s3").create_bucket(Bucket=bucket)
        tables = f"postgresql+psycopg2://127.0.0.1:{database['PGPORT']}/mlflow"
        secrets = {name: database[name] for name in ("PGUSER", "PGPASSWORD")}
        with services.mlflow_server(folder, tables, "s3://mlflow/artifacts", secrets) as address:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            yield address


@pytest.fixture(scope="module")
def slims(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slims")
    first = small.make(folder, rows=600).slim
    return [first, *(small.variant(first, folder / f"variant{i}", 0.1 * i) for i in (1, 2))]


def test_from_a_log_on_s3_to_a_model_that_a_clean_process_loads_by_its_alias(server, tmp_path):
    table, schema = generate(ROWS, seed=5)
    pq.write_table(table, tmp_path / "part.parquet")
    boto3.client("s3").upload_file(str(tmp_path / "part.parquet"), "logs", "day/part-0.parquet")
    fields = schema.model_dump(mode="json", exclude={"time"})
    found = audit(tmp_path, "s3://logs/day", fields, model="from-s3")
    assert found["aliases"] == ["challenger", "champion"]
    client = MlflowClient(server)
    record = client.get_model_version_by_alias("from-s3", "champion")
    assert client.get_model_version_download_uri("from-s3", record.version).startswith("s3://mlflow/artifacts/")
    assert client.get_run(record.run_id).info.artifact_uri.startswith("s3://mlflow/artifacts/")

    rows = table.take(pa.array(Dataset.open(found["dataset"]).split("test").row[:50]))
    pq.write_table(rows, tmp_path / "rows.parquet")
    script = """
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/from-s3@champion")
print(json.dumps(model.predict(pandas.read_parquet(sys.argv[1]))["probability"].tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path / "rows.parquet")],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores == pytest.approx(Predictor.load(found["tuned"]).predict(rows), abs=1e-6)


def test_promotion_rollback_and_refusals_hold_on_postgresql(server, slims):
    client = MlflowClient(server)
    register("team", slims[0], approval="automatic")
    register("team", slims[1], "1", approval="automatic")
    assert register("team", slims[1], "1") == "2" and len(client.search_model_versions("name = 'team'")) == 2
    assert promotion.rollback("team", "at night").after == "1" == champion_of(client, "team")
    register("team", slims[2], "2")
    with pytest.raises(ConflictError, match="judged against version 2"):
        promotion.promote("team")
    assert [kind for kind, *_ in kinds(client, "team")] == ["intent", "commit"] * 3


def test_a_version_whose_objects_are_gone_from_the_bucket_is_not_promoted(server, slims):
    client = MlflowClient(server)
    register("gone", slims[0], own_files=True)
    key = client.get_model_version_download_uri("gone", "1").removeprefix("s3://mlflow/")
    bucket = boto3.resource("s3").Bucket("mlflow")
    (weights,) = [each for each in bucket.objects.filter(Prefix=key) if each.key.endswith("model.safetensors")]
    content = weights.get()["Body"].read()
    weights.put(Body=content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SecurityError, match=r"model\.safetensors is not the file its manifest describes"):
        promotion.promote("gone")
    bucket.objects.filter(Prefix=key).delete()
    with pytest.raises(SecurityError, match="has no files any more"):
        promotion.promote("gone")
    assert versions.version_at(client, "gone", "champion") == ""


def test_of_those_that_race_on_postgresql_exactly_one_wins(server, slims):
    race_for_entries(server, "entries", rounds=25)
    race_for_champion(server, "race", slims, rounds=2)
