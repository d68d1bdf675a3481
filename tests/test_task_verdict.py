"""A verdict a task: each with its own bound, all of them at once, from the report to the bundle, the registry and serving."""

import copy

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import services
import shop
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from slimrec import track
from slimrec.artifacts import read_json
from slimrec.artifacts.envelope import unseal
from slimrec.config import EvaluateConfig, FinetuneConfig, PretrainConfig, Recipe, RegisterConfig, check_schema, parse
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError, SecurityError
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.registry import bundle, registration
from slimrec.registry.champion import Champion, judge
from slimrec.registry.champion import score as predictions
from slimrec.serving.predictor import Predictor, predict_file
from slimrec.serving.pyfunc import SlimModel
from slimrec.stages import evaluate, finetune, pretrain, register
from slimrec.track import Tracker
from slimrec.verdict import tasks

NAMES = ["click", "buy"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Artifacts of an audit that drops the noise."""
    folder = tmp_path_factory.mktemp("tasks")
    shop.shop(folder, shop.ESMM, 8000)
    return {
        "folder": folder,
        **shop.pruned(folder, folder / "dataset", shop.full_model(folder, folder / "dataset"), ("noise",)),
    }


def report_of(world, target, **settings):
    config = EvaluateConfig(latency_repeats=1, **{"allowed_auc_loss": 0.1, **settings})
    paths = {name: world[name] for name in ("dataset", "slim", "full", "selection")}
    return evaluate.run(config, Tracker(), **paths, report=target)


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "report"
    return report_of(world, report, slices=[{"of": "mood", "parts": 2}], allowed_slice_loss=0.3), report


def test_each_task_is_judged_on_the_rows_that_are_observed_for_it(tmp_path):
    data = shop.shop(tmp_path, NAMES)
    world = shop.pruned(tmp_path, data.path, shop.full_model(tmp_path, data.path), ("noise",))
    report_of(world, tmp_path / "report")
    facts = read_json(tmp_path / "report" / "report.json")
    raw = pq.read_table(tmp_path / "raw.parquet").take(data.split("test").row)
    scores = Predictor.load(world["slim"]).predict(raw)
    for number, (name, told) in enumerate(zip(NAMES, facts["tasks"])):
        there = raw[name].is_valid().to_numpy()
        expected = roc_auc_score(raw[name].drop_null(), scores[there, number])
        assert told["task"] == name and told["rows"] == there.sum()
        assert told["auc"]["slim"] == pytest.approx(expected, abs=1e-9)
    assert facts["tasks"][1]["rows"] < facts["tasks"][0]["rows"]


def test_a_champion_is_judged_in_each_task_within_its_own_limit_on_the_rows_and_slices_observed_for_it(world, tmp_path):
    data = shop.shop(tmp_path, NAMES, 2000)
    test = data.split("test")
    champion = Champion("ctr", "1", world["slim"], world["slim"], None, None)
    config = EvaluateConfig(
        allowed_auc_loss=0.4,
        allowed_task_loss={"click": 0.3},
        slices=[{"of": "mood", "parts": 2}],
        allowed_slice_loss=0.5,
    )
    scores = predictions(champion.slim, data.path)[0]
    found = judge(config, champion, data.path, test, scores)
    assert [each["allowed_auc_loss"] for each in found["tasks"]] == [0.3, 0.4]
    for number, told in enumerate(found["tasks"]):
        label, seen = test.label[:, number], ~np.isnan(test.label[:, number])
        assert told["auc"]["champion"] == pytest.approx(roc_auc_score(label[seen], scores[seen, number]))
        assert sum(part["rows"] for part in told["slices"]) == seen.sum()
    assert np.isnan(test.label).any()


def test_the_bounds_of_two_tasks_pay_for_each_other(judged):
    for told in read_json(judged[1] / "report.json")["tasks"]:
        assert told["confidence"] == pytest.approx(0.975)


def test_the_whole_is_certified_where_every_task_is_and_says_so_of_each(judged):
    metrics, report = judged
    facts = read_json(report / "report.json")
    assert metrics["verdict"] == "certified" and [each["verdict"] for each in facts["tasks"]] == ["certified"] * 2
    assert facts["reason"].startswith("task 'click': ") and "; task 'buy': " in facts["reason"]
    worst = min(facts["tasks"], key=lambda each: each["auc"]["low"])
    assert facts["auc"] == worst["auc"] and facts["task"] == worst["task"]
    assert {f"auc_low/{name}" for name in NAMES} <= metrics.keys()


def test_the_report_shows_every_task_with_its_slices(judged):
    text = (judged[1] / "report.md").read_text()
    page = (judged[1] / "report.html").read_text()
    for each in read_json(judged[1] / "report.json")["tasks"]:
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {each['task']} | certified |"))
        assert line.split(" | ")[3:5] == [f"{each['auc'][name]:.5f}" for name in ("full", "slim")]
    for name in NAMES:
        assert f"| {name} | certified |" in text and f"## Protected slices, task {name}" in text
        assert f"AUC, {name}" in text and f"Protected slices, task {name}</h2>" in page
    assert "so that those of all 2 tasks hold at once with 95 %" in page


def test_a_field_that_one_task_needs_is_vetoed_by_it_alone(world, tmp_path):
    lost = shop.pruned(tmp_path, world["dataset"], world["full"], ("noise", "price"))
    metrics = report_of({**world, **lost}, tmp_path / "report", allowed_auc_loss=0.02)
    facts = read_json(tmp_path / "report" / "report.json")
    assert metrics["verdict"] == "rejected" and facts["task"] == "buy"
    assert [each["verdict"] for each in facts["tasks"]] == ["certified", "rejected"]
    assert facts["reason"].startswith("task 'buy': ") and "task 'click'" not in facts["reason"]


def test_a_task_may_be_allowed_a_loss_of_its_own(world, tmp_path):
    report_of(world, tmp_path / "report", allowed_task_loss={"buy": 0.0})
    facts = read_json(tmp_path / "report" / "report.json")
    assert [each["allowed_auc_loss"] for each in facts["tasks"]] == [0.1, 0.0]
    assert facts["task"] == "buy" and facts["verdict"] != "certified"


def test_a_limit_of_no_task_is_refused_before_anything_runs(world, tmp_path):
    with pytest.raises(ConfigError, match="there is no task 'sale'"):
        report_of(world, tmp_path / "report", allowed_task_loss={"sale": 0.1})
    recipe = {"ingest": {"source": "x.parquet", "fields": {"tasks": NAMES, "fields": shop.FIELDS}}}
    with pytest.raises(ConfigError, match="there is no task 'bye'; did you mean 'buy'"):
        check_schema(parse(Recipe, {**recipe, "evaluate": {"allowed_task_loss": {"bye": 0.1}}}))
    search = {"pretrain": {"method": "leap"}, "prune": {"hidden_keep": 0.5}}
    with pytest.raises(ConfigError, match="leave it out with `tasks`"):
        check_schema(parse(Recipe, {**recipe, **search}))


@pytest.mark.parametrize(
    "verdicts, decides",
    [(("certified", "rejected"), 1), (("inconclusive", "certified"), 0), (("inconclusive", "rejected"), 1)],
)
def test_the_gravest_verdict_of_a_task_is_that_of_all(verdicts, decides):
    found = [
        {"task": str(i), "verdict": verdict, "reason": "r", "auc": {"low": 0.0}, "allowed_auc_loss": 0.0}
        for i, verdict in enumerate(verdicts)
    ]
    whole = tasks.joined(found)
    assert whole["verdict"] == verdicts[decides] and whole["task"] == str(decides)


def test_of_tasks_with_one_verdict_the_one_with_the_least_room_decides_and_one_without_a_bound_before_all():
    def told(name, verdict, low, allowed):
        return {
            "task": name,
            "verdict": verdict,
            "reason": f"why {name}",
            "auc": {"low": low},
            "allowed_auc_loss": allowed,
        }

    near, far = told("near", "inconclusive", -0.01, 0.005), told("far", "inconclusive", -0.02, 0.018)
    none, fine = told("none", "inconclusive", None, 0.1), told("fine", "certified", -0.5, 0.4)
    assert tasks.deciding([far, near, fine]) == 1 and tasks.deciding([near, far, fine]) == 0
    assert tasks.deciding([near, none, far]) == 1 and tasks.deciding([fine]) == 0
    whole = tasks.joined([fine, far, near])
    assert whole == {**near, "reason": "task 'far': why far; task 'near': why near", "tasks": [fine, far, near]}
    assert [tasks.share(0.95, count) for count in (1, 2, 5)] == pytest.approx([0.95, 0.975, 0.99])
    config = EvaluateConfig(confidence=0.9, allowed_auc_loss=0.2, allowed_task_loss={"buy": 0.1})
    kept = [
        (limits.confidence, limits.allowed_auc_loss) for limits in (tasks.limits(config, name, 2) for name in NAMES)
    ]
    assert np.array(kept) == pytest.approx(np.array([[0.95, 0.2], [0.95, 0.1]])) and tasks.of("") == ""


def test_a_leak_of_the_second_label_is_found_and_stops_the_whole(tmp_path):
    table = shop.rows_of_a_shop(4000)
    told = [f"after{code % 3}" if buy else f"before{code % 3}" for code, buy in enumerate(table["buy"].to_pylist())]
    table = table.set_column(3, "noise", pa.array(told))
    data = shop.shop(tmp_path, NAMES, table=table)
    found = [leak for leak in read_json(data.path / "leaks.json") if leak["name"] == "noise"]
    assert [leak["task"] for leak in found] == ["buy"] and found[0]["said"].startswith("task 'buy': ")
    full = shop.full_model(tmp_path, data.path)
    made = shop.pruned(tmp_path, data.path, full, ("mood",))
    metrics = report_of(made, tmp_path / "report", allowed_auc_loss=0.4)
    facts = read_json(tmp_path / "report" / "report.json")
    assert metrics["verdict"] == "inconclusive" and "looks like a leak" in metrics["reason"]
    assert [each["verdict"] for each in facts["tasks"]] == ["certified", "inconclusive"]


def test_a_field_that_tells_only_whether_there_is_an_answer_gives_that_label_not_away(tmp_path):
    table = shop.rows_of_a_shop(4000)
    told = [f"n{row % 50}" if click else None for row, click in enumerate(table["click"].to_pylist())]
    data = shop.shop(tmp_path, NAMES, table=table.set_column(3, "noise", pa.array(told)))
    found = [leak for leak in read_json(data.path / "leaks.json") if leak["name"] == "noise"]
    assert found and {leak["task"] for leak in found} == {"click"}


def test_a_bundle_replays_both_tasks_and_refuses_a_verdict_that_one_of_them_does_not_bear(world, judged, tmp_path):
    made = {"slim": world["slim"], "report": judged[1], "selection": world["selection"]}
    file = bundle.write(tmp_path / "bundle", **made, registry={"registered": False})
    replay = bundle.verify(file, unsigned=True)
    facts = read_json(judged[1] / "report.json")
    assert replay.verdict == "certified" and replay.reason == facts["reason"] and replay.low == facts["auc"]["low"]
    statement, _ = unseal(file, None)
    other = 1 - NAMES.index(facts["task"])
    for change in (
        lambda told: told["tasks"][0]["auc"].update(low=0.0),
        lambda told: told["tasks"][1]["auc"].update(low=0.0),
        lambda told: told["tasks"][1].update(verdict="rejected"),
        lambda told: told.update(facts["tasks"][other]),
        lambda told: told["tasks"].pop(other),
    ):
        forged = copy.deepcopy(statement)["predicate"]
        change(forged["report"])
        with pytest.raises(SecurityError, match="contradicts itself"):
            bundle._verdict(bundle.Audit(**forged))


def test_serving_gives_a_probability_a_task(world, tmp_path):
    predictor = Predictor.load(world["slim"])
    raw = pq.read_table(world["folder"] / "raw.parquet").slice(0, 50)
    scores = predictor.predict(raw)
    assert predictor.scores == ("probability_click", "probability_buy")
    assert scores.shape == (50, 2) and (scores[:, 1] <= scores[:, 0]).all()
    pq.write_table(raw, tmp_path / "rows.parquet")
    predict_file(world["slim"], tmp_path / "rows.parquet", tmp_path / "scores.csv", keys=["user"])
    written = pd.read_csv(tmp_path / "scores.csv")
    assert list(written) == ["user", "probability_click", "probability_buy"]
    assert np.allclose(written[["probability_click", "probability_buy"]], scores)
    served = SlimModel()
    served.predictor, served.warned = predictor, set()
    assert list(served.predict(None, raw.to_pandas())) == ["probability_click", "probability_buy"]
    signature = registration._signature(predictor.model.schema, list(predictor.columns))
    assert signature.outputs.input_names() == ["probability_click", "probability_buy"]


def test_scores_of_two_tasks_go_to_the_screen_with_their_names(world, tmp_path, capsys):
    pq.write_table(pq.read_table(world["folder"] / "raw.parquet").slice(0, 3), tmp_path / "rows.parquet")
    predict_file(world["slim"], tmp_path / "rows.parquet")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "probability_click,probability_buy" and len(lines) == 4
    with pytest.raises(ConfigError, match="cannot be called 'probability_buy'"):
        predict_file(world["slim"], tmp_path / "rows.parquet", keys=["probability_buy"])


def test_a_champion_of_the_same_tasks_is_compared_in_each_and_one_of_other_tasks_in_none(world, tmp_path):
    test = Dataset.open(world["dataset"]).split("test")
    config = EvaluateConfig(allowed_auc_loss=0.05)
    slim = load_model(world["slim"])
    logits = score(slim, Dataset.open(world["dataset"], slim.schema.names).split("test"))
    champion = Champion("ctr", "1", world["slim"], world["slim"], None, None)
    found = judge(config, champion, world["dataset"], test, logits)
    assert found["verdict"] == "certified" and [each["task"] for each in found["tasks"]] == NAMES
    assert found["auc"]["difference"] == 0.0
    other = test.by_task()["click"]
    found = judge(config, champion, world["dataset"], other, logits[:, 0])
    assert found["verdict"] == "inconclusive" and "it learnt click, buy, and this audit one label" in found["reason"]


def test_bounds_of_two_tasks_hold_for_any_seed_where_both_sides_are_retrained(world, tmp_path):
    train = {**shop.TRAIN, "epochs": 1}
    config = PretrainConfig(model=shop.NETWORK, train=train, retrains=2)
    pretrain.run(
        config, Tracker(), dataset=world["dataset"], gated=tmp_path / "full", retrained=tmp_path / "full_again"
    )
    made = shop.pruned(tmp_path / "made", world["dataset"], tmp_path / "full", ("noise",))
    tuning = FinetuneConfig(train=train, retrains=2, before=train)
    paths = {"dataset": world["dataset"], "gated": tmp_path / "full", "selection": made["selection"]}
    cut = {"slim": tmp_path / "made" / "cut", "tuned": tmp_path / "tuned", "retrained": tmp_path / "slim_again"}
    finetune.run(tuning, Tracker(), **paths, **cut)
    evaluate.run(
        EvaluateConfig(allowed_auc_loss=0.1, latency_repeats=1, retrains=2),
        Tracker(),
        **{**made, "slim": tmp_path / "tuned", "full": tmp_path / "full"},
        report=tmp_path / "report",
        slim_retrained=tmp_path / "slim_again",
        full_retrained=tmp_path / "full_again",
    )
    label = Dataset.open(world["dataset"]).split("test").label
    again = [np.load(tmp_path / f"{side}_again" / "scores.npy") for side in ("full", "slim")]
    for number, told in enumerate(read_json(tmp_path / "report" / "report.json")["tasks"]):
        first, *others = told["retrains"]["differences"]
        areas = [[roc_auc_score(label[:, number], each[:, number]) for each in side] for side in again]
        assert others == pytest.approx(np.subtract(areas[1], areas[0]), abs=1e-6)
        assert np.mean([first, *others]) == pytest.approx(told["auc"]["difference"])


@pytest.mark.battery
def test_the_registry_serves_a_probability_a_task_and_its_champion_is_met_in_each(world, tmp_path):
    with services.mlflow_on_sqlite(tmp_path / "mlflow", MLFLOW_EXPERIMENT_NAME="tests"):
        config, found = RegisterConfig(name="shop"), []
        for number, dropped in enumerate([("noise",), ("noise", "price")]):
            made = (
                world
                if not number
                else {**world, **shop.pruned(tmp_path / "worse", world["dataset"], world["full"], dropped)}
            )
            report, settings = (
                tmp_path / f"report{number}",
                {"allowed_auc_loss": 0.4, "allowed_task_loss": {"click": 0.02}},
            )
            with track.run("evaluate", config) as tracker:
                paths = {name: made[name] for name in ("dataset", "slim", "full", "selection")}
                limits = EvaluateConfig(latency_repeats=1, champion="shop", **settings)
                evaluate.run(limits, tracker, **paths, report=report)
            with track.run("register", config) as tracker:
                paths = {name: made[name] for name in ("slim", "selection", "dataset")}
                found.append(register.run(config, tracker, **paths, report=report, bundle=tmp_path / f"bundle{number}"))
        facts = read_json(tmp_path / "report1" / "report.json")
        assert [each["task"] for each in facts["champion"]["tasks"]] == NAMES
        assert facts["champion"]["tasks"][1]["auc"]["high"] < 0 < facts["champion"]["tasks"][0]["auc"]["high"]
        assert found[0]["aliases"] == ["challenger", "champion"] and found[1]["registered"]
        model = mlflow.pyfunc.load_model("models:/shop/1")
        raw = pq.read_table(world["folder"] / "raw.parquet").slice(0, 20)
        served = model.predict(raw.select(model.metadata.get_input_schema().input_names()).to_pandas())
        assert np.allclose(served[["probability_click", "probability_buy"]], Predictor.load(world["slim"]).predict(raw))
        assert model.metadata.get_output_schema().input_names() == ["probability_click", "probability_buy"]
        tags = MlflowClient().get_model_version("shop", found[0]["version"]).tags
        assert tags["slimrec.tasks"] == "click, buy" and tags["slimrec.verdict"] == "certified"
