"""A search as a paper has it, and what it selected on one network trained on another."""

import json

import pytest
import small
import yaml

from slimrec.artifacts import read_json
from slimrec.cli import main as slimrec
from slimrec.config import FinetuneConfig, ModelConfig, PretrainConfig, PruneConfig, parse
from slimrec.errors import ConfigError
from slimrec.model.files import load_model
from slimrec.selection import Budget
from slimrec.stages import finetune, ingest, pretrain, prune, sample, settle
from slimrec.track import Tracker

TRAIN = small.RECIPE["pretrain"]["train"]
RECIPE = {
    **small.RECIPE,
    "pretrain": {
        **small.RECIPE["pretrain"],
        "method": "lightfmp",
        "options": {"reference": "paper"},
        "train": {**TRAIN, "epochs": 3, "patience": 0},
    },
    "finetune": {"start": "fresh", "train": TRAIN},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, as far as the cut; its recipe beside it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = settle.settle(RECIPE, {})
    folder.with_suffix(".yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    data, gated, cut = folder / "ingest" / "dataset", folder / "pretrain" / "gated", folder / "prune"
    ingest.run(recipe.ingest, Tracker(), dataset=data)
    sample.run(recipe.sample, Tracker(), dataset=data, subset=folder / "sample" / "subset")
    pretrain.run(recipe.pretrain, Tracker(), dataset=data, gated=gated, subset=folder / "sample" / "subset")
    prune.run(
        PruneConfig(budget=Budget(keep=0.5)), Tracker(), gated=gated, selection=cut / "selection", slim=cut / "slim"
    )
    return folder


def test_a_selection_says_how_often_rows_were_seen_with_the_gate_on_them(run):
    said = "rows were seen 3 times with the gate on them"
    assert read_json(run / "prune" / "selection" / "selection.json")["note"].startswith(said)
    assert f"**Mind:** {said}" in (run / "prune" / "selection" / "selection.md").read_text(encoding="utf-8")


def test_what_one_network_selected_is_trained_on_another_from_the_command_line(run, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["transfer", str(run), str(run.with_suffix(".yaml")), "--backbone", "dcn", "--options", '{"hidden": [8]}']
    with pytest.raises(SystemExit) as ended:
        slimrec(words)
    assert not ended.value.code
    made = run.with_name("run-on-dcn")
    slim, full = load_model(made / "tuned"), load_model(made / "full")
    assert {type(model.backbone).__name__ for model in (slim, full)} == {"DCN"}
    assert slim.schema.names == load_model(run / "prune" / "slim").schema.names and len(full.schema.names) == 20
    assert not slim.backbone.carried and slim.backbone.options["hidden"] == [8]
    report = read_json(made / "report" / "report.json")
    told = capsys.readouterr().out
    assert f"dcn: AUC {report['auc']['full']:.5f} in full, {report['auc']['slim']:.5f}" in told
    for page in ("report.html", "report.md"):
        assert "rows were seen 3 times with the gate on them" in (made / "report" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"start": "warm", "model": {"backbone": "dcn"}}, "start must be fresh, not warm"),
        ({"start": "fresh", "model": {"backbone": "dcm"}}, "did you mean 'dcn'"),
    ],
)
def test_another_network_is_refused_where_it_cannot_be(section, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse(FinetuneConfig, section)


def test_another_network_has_embeddings_of_the_same_width(run):
    config = FinetuneConfig(start="fresh", model=ModelConfig(backbone="mlp", embedding_dim=8))
    with pytest.raises(ConfigError, match="embeddings of 4, finetune.model has embedding_dim 8"):
        finetune._start(config, run / "pretrain" / "gated", run / "prune" / "selection", run / "prune" / "slim")


def test_meetings_that_were_selected_go_on_in_a_network_that_has_them_and_in_no_other(tmp_path):
    small.ingest_rows(tmp_path, rows=1000, gate=0.1)
    places = {name: tmp_path / name for name in ("gated", "selection", "slim")}
    search = PretrainConfig(
        method="optfeature",
        options={"grain": "field", "max_pairs": 2},
        model=ModelConfig(backbone="pnn", embedding_dim=4),
        train={**TRAIN},
    )
    pretrain.run(search, Tracker(), dataset=tmp_path / "dataset", gated=places["gated"])
    prune.run(PruneConfig(), Tracker(), **places)
    on = {
        name: FinetuneConfig(start="fresh", model=ModelConfig(backbone=name, embedding_dim=4))
        for name in ("deepfm", "mlp")
    }
    pairs = read_json(places["selection"] / "selection.json")["pairs"]
    assert json.loads(json.dumps(finetune._start(on["deepfm"], **places).backbone.options["pairs"])) == pairs != []
    with pytest.raises(ConfigError, match="the backbone 'mlp' of finetune.model has none"):
        finetune._start(on["mlp"], **places)
