"""A model is scored with wherever it lies: in a folder, at an s3:// address, in the registry, by alias and by version."""

import os
import shutil
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
import services
import small
from mlflow import MlflowClient
from typer.testing import CliRunner

from slimrec import track
from slimrec.artifacts import digest, remote
from slimrec.cli import app
from slimrec.config import RegisterConfig
from slimrec.errors import ConfigError, InputError, SecurityError
from slimrec.registry import registration, store, versions
from slimrec.registry.located import located


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    made = small.make(folder, rows=600)
    pq.write_table(small.raw_rows(20, seed=3), folder / "rows.parquet")
    with services.mlflow_on_sqlite(folder / "runs" / "mlflow"):
        for slim in (made.slim, small.variant(made.slim, folder / "variant", 0.3)):
            with track.run("register", RegisterConfig(name="shop")) as tracker:
                decision = small.decision("" if slim == made.slim else "1", "shop")
                registration.register("shop", slim, slim, decision, "automatic", tracker.run_id)
        yield made


def scores(model: str | Path, rows: Path) -> list[str]:
    done = CliRunner().invoke(app, ["predict", str(model), str(rows)])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_registered_model_scores_as_its_folder_by_alias_and_by_version(world):
    folder, rows = world.slim.parent, world.slim.parent / "rows.parquet"
    first, second = scores(world.slim, rows), scores(folder / "variant", rows)
    assert len(first) == 20 and first != second
    assert scores("models:/shop@champion", rows) == scores("models:/shop/2", rows) == second
    assert scores("models:/shop/1", rows) == first


def test_a_version_whose_files_and_tag_were_changed_together_is_not_used(world):
    client = MlflowClient()
    files = Path(client.get_model_version_download_uri("shop", "1").removeprefix("file://"), "artifacts", "slim")
    before = shutil.copytree(files, world.slim.parent / "before")
    shutil.copytree(world.slim.parent / "variant", files, dirs_exist_ok=True)
    client.set_model_version_tag("shop", "1", versions.DIGEST, digest(world.slim.parent / "variant"))
    try:
        with pytest.raises(SecurityError, match="register the model again"), located("models:/shop/1"):
            pass
    finally:
        shutil.copytree(before, files, dirs_exist_ok=True)
        client.set_model_version_tag("shop", "1", versions.DIGEST, digest(before))


def test_the_registry_is_that_of_the_folder_where_no_other_is_named(world, monkeypatch):
    monkeypatch.chdir(world.slim.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with located("models:/shop/1") as folder:
        assert digest(folder) == digest(world.slim)
    assert os.environ["MLFLOW_TRACKING_URI"].endswith("runs/mlflow/mlflow.db")


def test_a_registry_that_is_not_there_is_named_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(ConfigError, match="no registry is named and runs/mlflow/mlflow.db, .* is not here"):
        store.find()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/typo/mlflow.db")
    with pytest.raises(ConfigError, match="typo/mlflow.db, and there is no such folder"):
        store.find()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address", ["sqlite:///mlflow.db", "sqlite://", "file:///no/such/runs", "http://no-such-host:1"]
)
def test_an_address_of_another_kind_or_in_this_folder_is_left_to_mlflow(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    store.find()
    assert os.environ["MLFLOW_TRACKING_URI"] == address


def test_a_model_in_an_object_store_scores_as_its_folder_and_leaves_no_copy(world, tmp_path, monkeypatch):
    rows = world.slim.parent / "rows.parquet"
    with services.s3_server(tmp_path) as address:
        for name, value in {**services.KEYS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="models")
        remote.push(world.slim, "s3://models/shop")
        assert scores("s3://models/shop", rows) == scores(world.slim, rows)
        with located("s3://models/shop") as folder:
            assert digest(folder) == digest(world.slim)
        assert not folder.exists()


def test_predict_says_what_it_wrote(world, tmp_path):
    words = ["predict", "models:/shop/1", str(world.slim.parent / "rows.parquet"), "--output", str(tmp_path / "s.csv")]
    done = CliRunner().invoke(app, [*words, "--key", "user", "--key", "device"])
    assert done.exit_code == 0 and f"wrote {tmp_path / 's.csv'}: user, device, probability\n" in done.stderr
    head = (tmp_path / "s.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert head.replace('"', "") == "user,device,probability"


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("models:/shop", ConfigError, "names no version; give models:/NAME@champion"),
        ("models:/shop/latest", ConfigError, "names no version"),
        ("models:/shop@best", InputError, "'shop' has no best"),
        ("models:/shop/9", InputError, "has no version 9"),
        ("models:/shopp@champion", InputError, "did you mean 'shop'"),
        ("gs://models/shop", ConfigError, "give a folder, s3://"),
    ],
)
def test_an_address_that_names_no_model_says_what_does(world, address, error, words):
    with pytest.raises(error, match=words), located(address):
        pass
