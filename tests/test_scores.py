"""`slimrec certify`: the same verdict for anybody's scores, from the command line and from Python."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from sklearn.metrics import log_loss
from typer.testing import CliRunner

from slimrec import certify
from slimrec.cli import app
from slimrec.errors import ConfigError, InputError
from slimrec.verdict.losses import Rows
from slimrec.verdict.scores import _as_logits, _by_range, _by_value, html, judge, told


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random = np.random.default_rng(0)
    label = (random.random(8000) < 0.3).astype(int)
    full = label + random.normal(size=8000)
    slim = full + 0.2 * random.normal(size=8000)
    user = np.where(random.random(8000) < 0.1, None, random.integers(0, 2000, 8000).astype(object))
    rows = pd.DataFrame({"y": label, "a": full, "b": slim, "g": user, "w": random.uniform(0.5, 2, 8000)})
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    rows.to_parquet(path)
    rows.to_csv(path.with_suffix(".csv"), index=False)
    return path, rows


def command(*words):
    return CliRunner().invoke(app, ["certify", *map(str, words)])


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_command_says_what_python_finds_in_either_format(table, ending):
    path, rows = table
    found = judge(str(path.with_suffix(ending)), "y", "a", "b", weight="w", allowed_loss=0.02)
    here = certify.compare(rows["y"].to_numpy(), rows["a"].to_numpy(), rows["b"].to_numpy(), rows["w"].to_numpy())
    assert found["comparison"]["low"] == pytest.approx(here.low, abs=1e-6)
    assert found["verdict"] == certify.verdict(here, 0.02)[0] == "certified"
    words = ("--label", "y", "--full", "a", "--slim", "b", "--weight", "w", "--allowed-loss", 0.02)
    done = command(path.with_suffix(ending), *words)
    assert (
        done.exit_code == 0 and done.stdout.startswith("certified: with 95 % confidence") and "evidence" in done.stdout
    )
    assert json.loads(command(path.with_suffix(ending), *words, "--json").stdout)["verdict"] == "certified"


def test_rows_without_a_group_count_one_by_one(table):
    path, rows = table
    found = judge(str(path), "y", "a", "b", group="g")["comparison"]
    assert found["clusters"] == rows["g"].isna().sum() + rows["g"].nunique()


def test_rows_without_a_group_count_one_by_one_in_arrays_too(table):
    path, rows = table
    scores = [rows[name].to_numpy() for name in ("y", "a", "b")]
    wanted = judge(str(path), "y", "a", "b", group="g")["comparison"]
    for group in (
        rows["g"],
        rows["g"].astype(float),
        rows["g"].astype("Int64"),
        rows["g"].map(str).where(rows["g"].notna()),
    ):
        found = certify.compare(*scores, group=group.to_numpy())
        assert (found.clusters, found.low) == (wanted["clusters"], pytest.approx(wanted["low"], abs=1e-9))


def test_what_the_caller_gets_to_read_is_what_the_caller_can_do(sliced, tmp_path):
    """Neither a recipe nor a schema is at hand, nor does a limit pass that scores cannot be held to."""
    path, rows = sliced
    few = judge(str(path), "y", "a", "p", slices=["device"], ranges=["age"], allowed_slice_loss=1e-6, allowed_loss=0.4)
    assert "allow it more, or let such slices pass with `unproven_slices` as a remark" in few["reason"]
    remark = judge(
        str(path), "y", "a", "p", slices=["device"], allowed_slice_loss=1e-6, allowed_loss=0.4, unproven_slices="remark"
    )
    assert remark["verdict"] == "certified"
    with pytest.raises(
        ConfigError, match="there is no limit 'retrains'; allowed: allowed_slice_loss, binding, ndcg_at"
    ):
        judge(str(path), "y", "a", "b", retrains=3)
    label, full = rows["y"].to_numpy(), rows["a"].to_numpy()
    for said, wrong in {
        "labels must be 0 or 1, got 2; write": {"label": label * 2},
        "weights must be finite and not negative, got -1": {"weight": -np.ones(len(label))},
        "8,000 of 8,000 rows as NaN or infinity; every row needs a finite score": {"slim": full * np.nan},
    }.items():
        with pytest.raises(InputError, match=said) as refused:
            certify.compare(**({"label": label, "full": full, "slim": full} | wrong))
        assert "schema" not in str(refused.value) and "`" not in str(refused.value)


def test_a_schema_says_how_scores_are_read_as_it_does_of_a_log(table, tmp_path):
    """So that what a refusal says of a schema can be done."""
    path, rows = table
    wanted = judge(str(path), "y", "a", "b", slices=["w"])
    written = rows.assign(y=rows["y"] * 4 + 1, b=rows["b"].map(repr)).drop(columns="g")
    written = written.to_csv(index=False, sep=";").replace(".", ",")
    (tmp_path / "scores.csv").write_text(written)
    with pytest.raises(InputError, match="parted by ';': say `csv: {separator"):
        judge(str(tmp_path / "scores.csv"), "y", "a", "b")
    (tmp_path / "s.yaml").write_text(
        'csv: {separator: ";", decimal: ","}\nlabel: {column: y, positive_above: 3}\nfields: [{name: a, kind: number}]\n'
    )
    words = ("--label", "y", "--full", "a", "--slim", "b", "--schema", tmp_path / "s.yaml", "--json")
    found = json.loads(command(tmp_path / "scores.csv", *words).stdout)
    assert found["comparison"] == pytest.approx(wanted["comparison"], abs=1e-9)
    assert judge(str(tmp_path / "scores.csv"), "y", "a", "b", schema=tmp_path / "s.yaml")["verdict"] == found["verdict"]
    other = {"csv": {"separator": ";", "decimal": ","}, "label": {"column": "elsewhere", "positive_above": 3}}
    with pytest.raises(InputError, match="the label column 'y' holds '5'"):  # whose rule that is not
        judge(str(tmp_path / "scores.csv"), "y", "a", "b", schema=other)
    with pytest.raises(InputError, match="no such file"):
        judge(str(tmp_path / "scores.csv"), "y", "a", "b", schema=tmp_path / "none.yaml")


def test_a_column_that_is_not_there_or_holds_no_score_is_refused_by_name(table, tmp_path):
    path, rows = table
    with pytest.raises(InputError, match="nope"):
        judge(str(path), "y", "nope", "b")
    rows.assign(b=rows["b"].where(rows.index != 5)).to_parquet(tmp_path / "hole.parquet")
    with pytest.raises(InputError, match="slim model scores 1 of 8,000 rows as NaN"):
        judge(str(tmp_path / "hole.parquet"), "y", "a", "b")
    rows[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="empty.parquet has no rows"):
        judge(str(tmp_path / "empty.parquet"), "y", "a", "b")
    rows.assign(w=0.0).to_parquet(tmp_path / "nothing.parquet")
    for group in ("g", None):
        with pytest.raises(InputError, match="weights in column 'w' of .* are all zero; at least one row must count"):
            judge(str(tmp_path / "nothing.parquet"), "y", "a", "b", group=group, weight="w")


@pytest.fixture(scope="module")
def sliced(table, tmp_path_factory):
    """The same scores, worthless to the second model where the device is `old <b>`; ages with holes; users of four rows."""
    random, rows = np.random.default_rng(1), table[1].copy()
    rows["device"] = random.choice(["new", "old <b>", "rare"], 8000, p=[0.8, 0.195, 0.005])
    rows["age"] = np.where(random.random(8000) < 0.1, np.nan, random.normal(size=8000))
    rows["b"] = np.where(rows["device"] == "old <b>", random.normal(size=8000), rows["b"])
    rows["user"], rows["p"], rows["q"] = (
        np.arange(8000) // 4,
        1 / (1 + np.exp(-rows["a"])),
        1 / (1 + np.exp(-2 - rows["a"])),
    )
    path = tmp_path_factory.mktemp("sliced") / "scores.parquet"
    rows.to_parquet(path)
    return path, rows


def test_a_slice_that_is_lost_rejects_the_whole_and_is_named(sliced):
    path, rows = sliced
    alone = judge(str(path), "y", "a", "b", allowed_loss=0.2)
    found = judge(
        str(path), "y", "a", "b", allowed_loss=0.2, slices=["device"], ranges=["age"], allowed_slice_loss=0.15
    )
    assert alone["verdict"] == "certified" and found["verdict"] == "rejected"
    assert found["reason"].startswith("device = old <b> loses at least 0.")
    names = [each["name"] for each in found["slices"]]
    assert names[:2] == ["device = new", "device = old <b>"] and len(names) == 7 and names[-1] == "age missing"
    assert sum(each["rows"] for each in found["slices"][2:]) == 8000
    here = rows["device"] == "old <b>"
    assert found["slices"][1]["rows"] == here.sum()
    mine = rows[here]
    lost = certify.compare(mine["y"].to_numpy(), mine["a"].to_numpy(), mine["b"].to_numpy())
    assert found["slices"][1]["difference"] == pytest.approx(lost.difference)
    assert "slices" in found["pilot"][1]


def test_what_one_row_in_a_hundred_holds_is_a_slice_and_what_fewer_hold_is_none():
    often, rest = ["a"] * 98, [str(i) for i in range(20)]

    def names(*values):
        return [name for name, *_ in _by_value("c", np.array(values, object))]

    assert names(*often, "b", "b") == ["c = a", "c = b"]
    assert names(*often, "b", "", *["c"] * 100)[-2:] == ["c = a", "c, other values"]  # b and none, one in a hundred
    assert names(*often * 11, *rest)[-1] == "c, other values" and names(*often * 11, *rest[:5]) == ["c = a"]


def test_values_of_a_slice_are_told_apart_to_the_last_character(tmp_path):
    rows = pd.DataFrame({"y": np.arange(300) % 2, "a": np.arange(300.0), "b": np.arange(300.0)})
    rows.assign(device=["a", "a\0", None] * 100).to_parquet(tmp_path / "scores.parquet")
    told = judge(str(tmp_path / "scores.parquet"), "y", "a", "b", slices=["device"])["slices"]
    assert [(each["name"], each["rows"]) for each in told] == [
        (f"device {name}", 100) for name in ("missing", "= a", "= a\0")
    ]


def test_ranges_hold_as_many_rows_each_none_where_one_value_is_the_largest_of_many_and_none_of_holes_alone():
    def ranges(*values):
        return {name: int(rows.sum()) for name, rows, _ in _by_range("c", np.array(values, float))}

    assert ranges(*range(1, 9)) == {"c up to 2": 2, "c above 2, up to 4": 2, "c above 4, up to 6": 2, "c above 6": 2}
    assert ranges(1, 2, 7, 7, 7, 7, 7, 7) == {"c up to 2": 2, "c above 2": 6}
    assert ranges(np.nan, np.nan)["c missing"] == 2


def test_values_as_frequent_as_others_are_taken_by_name_and_holes_are_a_slice_from_one_row_in_a_hundred_on():
    values = np.array([f"{i:02}" for i in np.random.default_rng(0).permutation(40)] * 3, object)
    told = [(name, int(rows.sum())) for name, rows, _ in _by_value("c", values)]
    assert told == [*((f"c = {i:02}", 3) for i in range(4)), ("c, other values", 108)]
    for holes, told in ((2, True), (1, False)):
        names = [name for name, *_ in _by_range("c", np.append(np.arange(200.0 - holes), [np.nan] * holes))]
        assert ("c missing" in names) == told and len(names) == 4 + told
    assert [name for name, *_ in _by_value("c", np.array([""] * 2 + ["a"] * 198, object))] == ["c = a", "c missing"]


def test_what_nobody_says_is_one_in_a_thousand_at_95_percent_of_ranks(table):
    found = judge(str(table[0]), "y", "a", "b")
    assert found["allowed_loss"] == 0.001 and found["comparison"]["confidence"] == 0.95 and found["slices"] == []
    assert found["losses"] == [] and found["columns"]["group"] is None and len(found["pilot"]) == 1
    assert "groups" not in html(found) and "8\u202f000 rows tell as much" in html(found)


def test_the_screen_says_the_verdict_its_evidence_and_what_slices_and_losses_come_to_line_by_line():
    comparison = {"difference": -0.01, "full_auc": 0.8, "slim_auc": 0.79, "rows": 5000, "copies": 1200,
                  "positive_effective": 1000.4, "negative_effective": 3999.6}  # fmt: skip
    parts = [
        {"name": "a = b", "verdict": "open", "difference": 0.02},
        {"name": "c", "verdict": "scarce", "difference": None},
    ]
    losses = [
        {"name": "ndcg", "verdict": "", "worse": 0.25},
        {"name": "log_loss", "verdict": "rejected", "worse": None},
    ]
    facts = {"verdict": "rejected", "reason": "it loses", "comparison": comparison, "slices": parts, "losses": losses}
    assert told(facts | {"rows_needed": 61_000}).splitlines() == [
        "rejected: it loses",
        "AUC        0.80000 -> 0.79000, \u22120.01000",
        "evidence   5\u202f000 rows tell as much as 1\u202f000 positive and 4\u202f000 negative independent observations",
        "copies     1\u202f200 rows repeat another one and do not count again",
        "slice      a = b: open, +0.02000",
        "slice      c: scarce, unknown",
        "loss       NDCG: worse by +0.25000",
        "loss       log-loss: rejected, worse by unknown",
        "pilot      about 61\u202f000 such rows end with a verdict, nine times in ten",
    ]
    bare = comparison | {"difference": None, "copies": 0}
    lines = told(facts | {"comparison": bare, "slices": [], "losses": [], "rows_needed": None}).splitlines()
    assert [line.split()[0] for line in lines] == ["rejected:", "evidence"]


def test_other_losses_bind_where_scores_are_said_to_be_what_they_ask_for(sliced):
    path, rows = sliced
    words = {"path": str(path), "label": "y", "full": "p", "slim": "q", "group": "user", "allowed_loss": 0.2}
    found = judge(**words, scale="probability", binding={"calibration": 0.1})
    assert found["verdict"] == "rejected" and found["reason"].startswith("calibration is worse by at least")
    loss = next(each for each in found["losses"] if each["name"] == "log_loss")
    assert loss["full"] == pytest.approx(log_loss(rows["y"], rows["p"]))
    ranked = judge(**words, binding={"grouped_auc": 0.1})
    assert ranked["verdict"] == "certified" and {each["name"] for each in ranked["losses"]} == {"grouped_auc", "ndcg"}
    with pytest.raises(ConfigError, match="say that scores are a `probability`"):
        judge(**words, binding={"calibration": 0.1})
    with pytest.raises(ConfigError, match="needs a group"):
        judge(str(path), "y", "p", "q", binding={"ndcg": 0.1})
    for binding, said in (
        ({"log_loss": 1, "calibration": 1}, "calibration is of probabilities"),
        ({"ndcg": 1, "grouped_auc": 1}, "AUC within groups needs a group"),
    ):
        with pytest.raises(ConfigError, match=said):
            judge(str(path), "y", "p", "q", binding=binding)
    with pytest.raises(ConfigError, match="`slices` names 'device' twice"):
        judge(str(path), "y", "p", "q", slices=["device", "g", "device", "g"])
    with pytest.raises(InputError, match="full scores are said to be probabilities"):
        judge(str(path), "y", "a", "b", scale="probability")


def test_the_command_writes_a_page_that_says_the_same_and_shows_names_as_they_are(sliced, tmp_path):
    path, page = sliced[0], tmp_path / "page.html"
    words = (
        "--label",
        "y",
        "--full",
        "a",
        "--slim",
        "b",
        "--slice",
        "device",
        "--group",
        "user",
        "--allowed-loss",
        0.2,
    )
    done = command(path, *words, "--binding", "grouped_auc=0.3", "--report", page)
    text = page.read_text()
    assert done.exit_code == 0 and "slice      device = old <b>: rejected" in done.stdout
    assert "loss       AUC within groups: certified" in done.stdout
    assert "device = old &lt;b&gt; loses at least" in text and "old <b>" not in text and "<script" not in text
    assert "b is worse than a" in text and "as they were given" in text and "Protected slices" in text
    assert "Before and after" not in text and "of 2\u202f000 groups" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--scale", "odds"), "--scale is 'odds'"),
        (("--binding", "ndcg"), "give LOSS=BY"),
        (("--binding", "gain=1"), "binding"),
        (("--slice", "nope"), "nope"),
        (("--slice", "device", "--slice", "device"), "`slices` names 'device' twice"),
        (("--range", "age", "--range", "age"), "`ranges` names 'age' twice"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_leaves_no_page(sliced, tmp_path, more, said):
    words = ("--label", "y", "--full", "a", "--slim", "b", "--report", tmp_path / "page.html")
    done = command(sliced[0], *words, *more)
    assert isinstance(done.exception, ConfigError | InputError) and said in str(done.exception)
    assert not (tmp_path / "page.html").exists()


def test_probabilities_are_judged_as_logits_those_that_are_certain_as_finite_ones_and_holes_stay_holes():
    full, slim = np.array([0.0, 0.2, 1.0, 1e-300]), np.array([0.9, np.nan, 0.5, 1.0])
    rows = Rows(np.array([0, 1, 1, 0]), full, slim, np.ones(4), None, None)
    told = _as_logits(rows, "probability")
    assert told.full == pytest.approx([-800, logit(0.2), 800, logit(1e-300)])
    assert told.slim == pytest.approx([logit(0.9), np.nan, 0, 800], nan_ok=True)
    assert _as_logits(rows, "logit") is rows and _as_logits(rows, "rank") is rows
    for wrong in (-1e-9, 1 + 1e-9):
        with pytest.raises(InputError, match="the slim scores are said to be probabilities"):
            _as_logits(rows._replace(slim=np.array([0.5, wrong, 0.5, 0.5])), "probability")
