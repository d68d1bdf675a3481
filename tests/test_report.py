"""The report: complete, self-contained, small, and deaf to whatever the data calls its columns."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from slimrec.verdict.outline import against_champion, before_after, changes, consequence, ranked, scored
from slimrec.verdict.outline import evidence as evidence_of
from slimrec.verdict.path import path
from slimrec.verdict.report import axis, headline, html, markdown, write
from slimrec.verdict.soundness import mind, piloted, self_tests

HOSTILE = '<script>alert(1)</script>|`=cmd()`"onload=x'


def facts(count=12, verdict="certified", names=None, threshold=None):
    """Facts of a report over `count` fields, the worse half of them dropped."""
    fields = [
        {
            "name": names[i] if names else f"field_{i:03d}",
            "column": names[i] if names else f"field_{i:03d}",
            "kind": ("category", "number", "bag")[i % 3],
            "score": round(0.98 * (1 - i / count) ** 1.5, 4),
            "kept": i < count / 2,
            "columns": (8 if i % 3 != 1 else 1) if i < count / 2 else 0,
            "width": 8 if i % 3 != 1 else 1,
            "rows": 0 if i % 3 == 1 else 17 * (i + 1) ** 2,
            "bytes": 0 if i % 3 == 1 else 17 * (i + 1) ** 2 * 32,
            "spread": None,
            "q_value": None,
            "note": "",
        }
        for i in range(count)
    ]
    total = sum(field["bytes"] for field in fields)
    left = sum(field["bytes"] for field in fields if field["kept"])
    sizes = [
        {"embedding_rows": b // 32, "embedding_bytes": b, "dense_bytes": d, "bytes": b + d, "multiply_adds": d // 4}
        for b, d in ((total, 51_200), (left, 27_904))
    ]
    low, high = {"certified": (-0.00042, 0.00101), "rejected": (-0.0091, -0.0052)}.get(verdict, (-0.0021, 0.0009))
    return {
        "verdict": verdict,
        "decision": "accept" if verdict == "certified" else "reject",
        "reason": "with 95 % confidence the AUC changes by so and so much",
        "allowed_auc_loss": 0.001,
        "confidence": 0.95,
        "auc": {
            "full": 0.79431,
            "slim": 0.79431 + (low + high) / 2,
            "difference": (low + high) / 2,
            "low": low,
            "high": high,
        },
        "rows": 100_021,
        "clusters": 6040,
        "grouped": True,
        "evidence": {
            "positive_effective": 1812.4,
            "negative_effective": 5411.7,
            "largest_share": 0.004,
            "copies": 0,
            "unseen": 0.0016,
        },
        "weighted": False,
        "quality": {name: {"logloss": 0.54321, "ratio": 1.013, "error": 0.0081} for name in ("full", "slim")},
        "size": dict(zip(("full", "slim"), sizes)),
        "latency": [
            {"batch": 1, "full_ms": 0.181, "slim_ms": 0.122},
            {"batch": 4096, "full_ms": 3.411, "slim_ms": 1.302},
        ],
        "fields": fields,
        "stoppable": [field["name"] for field in fields if not field["kept"]],
        "pairs": None,
        "hidden": {"full": [64, 32], "slim": [64, 32]},
        "threshold": threshold,
        "leaks": [],
        "slices": [],
        "losses": [],
        "retrains": {"differences": [], "disagree": False},
        "self_test": {
            "failed": "",
            "same": 0.0,
            "mixed": -0.29,
            "knows": True,
            "field": "field_000",
            "shuffled": -0.04,
            "told": True,
        },
        "look": {"number": 1, "asked": 0.95},
        "pilot": {"planned": 0.0021, "found": 0.0013, "rows_needed": 441_000},
        "training": {"full": None, "slim": None, "longer": "", "said": ""},
        "champion": None,
        "diff": None,
        "dataset": "a1b2" * 16,
        "slim_digest": "c3d4" * 16,
        "made": {
            "method": "some-method",
            "note": "",
            "seed": 0,
            "budget": "keep = 0.5",
            "evidence": {"effective shuffle rate": 0.98},
            "backbone": "widedeep",
            "embedding_dim": 8,
            "rows": {"train": 800_167, "gate": 50_011, "valid": 50_010, "test": 100_021},
        },
    }


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += f"{data} "


def test_page_names_every_field_with_its_fate_and_score():
    page = Page(html(facts()))
    rows = [a for t, a in page.tags if t == "tr" and a.get("class") in ("kept", "dropped")]
    bars = [a["style"] for t, a in page.tags if t == "span" and a.get("class") == "bar"]
    assert [row["class"] for row in rows] == ["kept"] * 6 + ["dropped"] * 6
    assert len(bars) == 12 and bars[0] == "width:98.00%"
    assert all(f"field_{i:03d}" in page.text for i in range(12))


def test_page_asks_for_nothing_from_outside_and_runs_nothing():
    text = html(facts())
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "img", "base", "form"}
    assert not re.search(r"https?://|url\(|@import|javascript:", text)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "src"]
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_hostile_field_names_come_out_as_text():
    hostile = facts(2, names=[HOSTILE, "</style><img src=x onerror=y>"])
    plain = facts(2)
    page = Page(html(hostile))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(html(plain)).tags]
    assert HOSTILE in page.text
    written = markdown(hostile)
    assert "<script>" not in written and "<img" not in written
    rows = [line for line in written.splitlines() if "cmd" in line]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)\|", rows[0])) == 9  # still one row of eight cells


def test_three_hundred_fields_stay_far_below_a_megabyte():
    assert len(html(facts(300)).encode()) < 300_000


@pytest.mark.parametrize("verdict", ["certified", "rejected", "inconclusive"])
def test_headline_says_what_goes_and_what_it_saves(verdict):
    sentence = headline(facts(verdict=verdict))
    assert "6 of 12 fields" in sentence and "smaller, " in sentence
    assert ("can go;" in sentence) == (verdict == "certified")
    assert "5 of 11 fields" in headline(facts(11, verdict=verdict))  # not those that stay
    none = facts(1, verdict=verdict)
    starts = {
        "certified": "all 1 fields stay; ",
        "rejected": "dropping 0 of 1",
        "inconclusive": "whether 0 of 1 fields can",
    }
    assert headline(none).startswith(starts[verdict])


def test_headline_does_not_call_a_model_smaller_that_is_not():
    same, hardly, larger, tenth, little = facts(), facts(), facts(), facts(), facts()
    for found, slim in ((same, 288_000), (hardly, 287_990), (larger, 300_000), (tenth, 28_800), (little, 285_000)):
        found["size"]["full"]["bytes"], found["size"]["slim"]["bytes"] = 288_000, slim
    assert headline(same).endswith("the model keeps its size, 288 kB.")
    assert "becomes hardly smaller, " in headline(hardly) and "becomes 1\u00a0% smaller, " in headline(little)
    assert headline(larger).endswith("the model becomes larger, 300 kB instead of 288 kB.")
    assert headline(tenth).endswith("the model becomes 90\u00a0% smaller, 28.8 kB instead of 288 kB.")


def test_marks_of_the_auc_figure_lie_in_order_inside_it():
    found = axis(facts())
    assert 0 < found["allowed"] < found["low"] < found["zero"] < found["difference"] < found["high"] < 100
    wide = axis(facts(verdict="rejected"))
    assert 0 < wide["low"] < wide["high"] < wide["allowed"] < wide["zero"] < 100


def test_undefined_auc_still_makes_a_report():
    one_class = facts(verdict="inconclusive")
    one_class["auc"] = dict.fromkeys(one_class["auc"])
    one_class["quality"]["slim"]["ratio"] = None
    assert "undefined" in Page(html(one_class)).text and axis(one_class) is None
    assert "undefined" in markdown(one_class)


def told(facts):
    """What a person reads in the page, and in its short form."""
    return " ".join(Page(html(facts)).text.split()), markdown(facts).replace("\\", "")


def test_report_says_how_sure_each_decision_is_and_what_to_know_before_believing_it():
    doubted = facts(2)
    doubted["fields"][0] |= {"spread": 0.04, "note": "field_000 or field_001: one says what all say"}
    for field in doubted["fields"]:
        field["q_value"] = 0.031
    for text in told(doubted):
        assert "0.980 ± 0.040" in text and "0.031" in text and "share of meaningless fields to expect" in text
        assert "field_000 or field_001: one says what all say" in text
    assert not any("±" in text or "meaningless" in text for text in told(facts(2)))


def test_report_lists_the_pairs_that_still_meet_and_counts_the_hidden_units_that_stay():
    cut = facts(4)
    cut["pairs"], cut["hidden"]["slim"] = [["field_000", "field_001"]], [20, 28]
    page, short = told(cut)
    assert "field_000 × field_001" in page and "field_000 × field_001" in short
    assert "Pairs of fields that meet 6 1 −83 % Hidden units 96 48 −50 %" in page
    assert "Pairs of fields that meet | 6 | 1 |" in short and "64, 32 before, 20, 28 after" in page
    assert not any("that meet" in text or "Hidden units" in text for text in told(facts(4)))


def test_figures_of_the_search_stand_in_one_row_a_field_and_plain_ones_beside_the_method():
    measured = facts(2)
    measured["made"]["evidence"] = {
        "width_16/field_001": 0.75,
        "width_8/field_001": 0.25,
        "on/field_000 x field_001": 1,
    }
    page, _ = told(measured)
    assert "field width 8 width 16 field_001 0.25 0.75" in page and "on/field_000 x field_001 1" in page
    assert "Effective shuffle rate 0.98" in told(facts(2))[0]


def test_a_re_audit_says_how_the_champion_does_and_what_changed_since():
    again = facts(2)
    auc = {"champion": 0.7941, "slim": 0.7937, "difference": -0.0004, "low": -0.002, "high": 0.001}
    again["champion"] = {
        "model": "m",
        "version": "3",
        "auc": auc,
        "verdict": "inconclusive",
        "reason": "too few rows",
        "look": {"number": 3, "asked": 0.95, "confidence": 0.9958},
    }
    fate = {"before": "kept", "after": "dropped", "score_before": 0.9, "score_after": 0.1}
    again["diff"] = {"changes": {"field_001": {"what": "died", **fate}}}
    page, short = told(again)
    for text in (page, short):
        assert "m version 3 is champion, with an AUC of 0.79410 on the same rows; the slim model has 0.79370" in text
        assert "Inconclusive: too few rows." in text and "died, kept to dropped, score 0.900 to 0.100" in text
    assert "Died: kept then, dropped now." in page and "Died:" not in told(facts(2))[0]
    assert against_champion(facts(2)) == ""
    unsure = {**again["champion"], "auc": {**auc, "difference": None}}
    for champion in (unsure, {**unsure, "auc": None}):
        assert against_champion({"champion": champion}) == "m version 3 is champion. Too few rows."


def test_raw_column_is_named_where_the_field_has_another_name():
    named = facts(2)
    named["fields"][0]["column"] = "C17"
    assert "column C17" in told(named)[0] and "column field_000" not in told(facts(2))[0]


def test_threshold_is_drawn_only_when_there_is_one():
    lines = [sum(a.get("class") == "limit" for _, a in Page(html(facts(threshold=t))).tags) for t in (None, 0.4)]
    assert lines == [0, 12]


def test_written_folder_holds_the_facts_unchanged(tmp_path):
    write(tmp_path, facts())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert json.loads((tmp_path / "report.json").read_text()) == facts()


def test_the_path_goes_from_the_field_worth_least_to_the_one_worth_most_and_tells_doubt_and_harm():
    told = facts()
    scores = {field["name"]: 0.1 / 2**i for i, field in enumerate(told["fields"])}
    for field in told["fields"]:
        field["score"] = scores[field["name"]]
    harmful, open_ = told["fields"][3], told["fields"][0]
    harmful["score"], harmful["note"] = -0.02, "costs you 0.02 ± 0.001 nats a row today: its mean does better"
    evidence = {"least_nats": 0.001, f"beyond/{open_['name']}": 1.0, f"error/{open_['name']}": 0.03}
    told["made"] = {**told["made"], "evidence": evidence}
    found = path(told)
    assert [field["name"] for field in found["fields"]][:1] == [harmful["name"]]
    assert found["fields"][-1]["name"] == open_["name"] and found["fields"][-1]["nats"] == "at least 0.1"
    assert found["fields"][0]["to"] == 0 and found["fields"][-1]["to"] == pytest.approx(100)
    evidence[f"error/{told['fields'][1]['name']}"] = 0.01  # of a worth of 0.05
    assert path(told)["fields"][-2]["to"] == pytest.approx(100 * math.log(0.07 / 2e-4) / math.log(0.1 / 2e-4))
    assert found["fields"][-1]["from"] == pytest.approx(100 * math.log(0.04 / 2e-4) / math.log(0.1 / 2e-4))
    page = html(told)
    assert "Path" in Page(page).text and "costs you 0.02" in page and "-0.02" in page
    harmful["score"] = -0.0  # of a constant
    assert path(told)["fields"][0]["nats"] == "0"
    assert path(facts()) is None and "<h2>Path</h2>" not in html(facts())


def test_places_on_the_path_are_those_of_a_logarithm_from_a_fifth_of_the_bar_to_twice_it_or_the_best():
    fields = [{"name": name, "score": score, "kept": score > 0.01, "note": name * 2}
              for name, score in (("b", 0.02), ("a", 0.02), ("c", 0.004), ("d", 0.001))]  # fmt: skip
    evidence = {"least_nats": 0.01, "error/c": 0.001, "beyond/c": 1.0}

    def place(nats):
        return pytest.approx(100 * math.log(nats / 0.002) / math.log(0.02 / 0.002))

    def row(name, fate, nats, low, high):
        return {"name": name, "fate": fate, "nats": nats, "note": name * 2, "from": place(low), "to": place(high)}

    assert path({"made": {"evidence": evidence}, "fields": fields}) == {
        "fields": [
            row("d", "dropped", "0.001", 0.002, 0.002),
            row("c", "dropped", "at least 0.004", 0.002, 0.006),
            row("a", "kept", "0.02", 0.02, 0.02),
            row("b", "kept", "0.02", 0.02, 0.02),
        ],
        "bar": place(0.01),
        "nats": "0.01",
    }
    small = [{**field, "score": field["score"] / 4} for field in fields]
    assert path({"made": {"evidence": evidence}, "fields": small})["bar"] == place(0.01)  # twice the bar is beyond all


def test_several_tasks_and_their_slices_stand_in_tables_of_this_text():
    told = facts(2)
    part = {"name": "site = a|b", "allowed": 0.01, "verdict": "open", "rows": 5012, "difference": 0.0, "low": -0.02,
            "high": None, "rows_needed": None, "full": 0.8, "slim": 0.8, "clusters": 9}  # fmt: skip
    loss = {
        "name": "ndcg",
        "full": 0.2,
        "slim": -0.1,
        "worse": 0.3,
        "least": None,
        "most": 0.4,
        "allowed": None,
        "verdict": "",
    }
    keys = ("auc", "quality", "retrains", "rows", "verdict", "allowed_auc_loss", "self_test")
    tasks = [
        {**{key: told[key] for key in keys}, "task": name, "slices": [part], "losses": [loss]} for name in ("a*", "b")
    ]
    text = markdown({**told, "tasks": tasks, "task": "b"})
    row = "| certified | 100\u202f021 | 0.79431 | 0.79461 | +0.00030 | \u22120.00042 | +0.00101 | \u22120.00100 |"
    table = ["| task | verdict | rows | full | slim | change | not below | not above | allowed |"]
    table += [
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        f"| a\\* {row}",
        f"| b {row}",
        "",
        "Self-test of a\\*: passed",
    ]
    assert "\n## Tasks\n\n" + "\n".join(table) in text
    for name in ("a\\*", "b"):
        table = [f"## Protected slices, task {name}", ""]
        table += [
            "| slice | verdict | rows | change | not below | not above | allowed |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        table += ["| site = a\\|b | open | 5\u202f012 | 0 | \u22120.02000 | unknown | \u22120.01000 |"]
        table += ["", f"## Other losses, task {name}", ""]
        table += ["| loss | full | slim | slim is worse by | at least | at most | allowed | |"]
        table += ["|---|---:|---:|---:|---:|---:|---:|---|"]
        table += ["| NDCG | 0.20000 | \u22120.10000 | +0.30000 | unknown | +0.40000 |  |  |", ""]
        assert "\n".join(table) in text
    assert "Other losses" not in markdown(told) and "## Tasks" not in markdown(told)


def sliced(*kinds):
    """Facts with a slice of each of these verdicts."""
    told = facts()
    for kind in kinds:
        low, high = (None, None) if kind == "scarce" else (-0.02, -0.015)
        figures = {"full": 0.8, "slim": 0.79, "difference": -0.0175, "low": low, "high": high, "clusters": 9}
        part = {"name": f"{kind} {HOSTILE}", "allowed": 0.01, "verdict": kind, "rows": 5012, **figures}
        told["slices"].append({**part, "rows_needed": None if kind == "rejected" else 61_000})
    return told


def test_slices_stand_in_a_table_with_their_bounds_and_without_any_there_is_none():
    told = sliced("certified", "rejected", "open", "scarce")
    page, text = Page(html(told)).text, markdown(told)
    for kind in ("certified", "rejected", "open", "scarce"):
        assert f"{kind} {HOSTILE}" in page
    assert "5\u202f012 rows of about 61\u202f000" in page and "\u22120.02000" in page and "unknown" in page
    assert text.count("| 5\u202f012 |") == 4 and "| unknown |" in text and "<script>" not in text + html(told)
    assert "Protected slices" not in html(facts()) + markdown(facts())


def test_other_losses_stand_in_a_table_and_what_is_binding_says_how_it_went():
    told = facts()
    figures = {"full": 0.2, "slim": 0.3, "worse": 0.1, "least": 0.05, "most": 0.15}
    told["losses"] = [
        {"name": "grouped_auc", **figures, "allowed": 0.01, "verdict": "rejected"},
        {"name": f"calibration of {HOSTILE}", **dict.fromkeys(figures), "allowed": None, "verdict": ""},
    ]
    page, text = Page(html(told)).text, markdown(told)
    assert "AUC within groups" in page and f"calibration of {HOSTILE}" in page and ", 0.01000 allowed" in page
    assert "| AUC within groups | 0.20000 | 0.30000 | +0.10000 | +0.05000 | +0.15000 | 0.01000 | rejected |" in text
    assert "Other losses" not in html(facts()) + markdown(facts())


def test_the_short_report_is_this_text():
    short = facts(2)
    short["fields"][1] |= {"note": "a|b", "q_value": 0.25}
    assert markdown(short).splitlines() == [
        "# Certified: 1 of 2 fields can go; the model becomes 45\u00a0% smaller, 28.4 kB instead of 51.7 kB.",
        "",
        (
            "AUC goes from 0.79431 to 0.79461, a change of +0.00030. With 95 % confidence it is not below \u22120.00042, and with "
            "95 % not above +0.00101; the allowed loss is 0.00100."
        ),
        "",
        "| | full | slim | change |",
        "|---|---:|---:|---:|",
        "| Fields | 2 | 1 | \u221250 % |",
        "| Input columns | 9 | 8 | \u221211 % |",
        "| Embedding rows | 17 | 17 | 0 % |",
        "| Embedding tables | 544 B | 544 B | 0 % |",
        "| Other weights | 51.2 kB | 27.9 kB | \u221245 % |",
        "| Model | 51.7 kB | 28.4 kB | \u221245 % |",
        "| Multiply-adds a row | 12\u202f800 | 6\u202f976 | \u221245 % |",
        "| Latency, 1 row | 0.181 ms | 0.122 ms | \u221233 % |",
        "| Latency, 4\u202f096 rows | 3.41 ms | 1.3 ms | \u221262 % |",
        "| AUC | 0.79431 | 0.79461 | +0.00030 |",
        "| Log-loss | 0.54321 | 0.54321 | 0 |",
        "| Predicted / observed | 1.01300 | 1.01300 | 0 |",
        "| Calibration error (ECE) | 0.00810 | 0.00810 | 0 |",
        "",
        "## Safe to stop computing",
        "",
        "field\\_001",
        "",
        "## Fields",
        "",
        "| field | kind | fate | score | columns | rows | table | remark |",
        "|---|---|---|---:|---:|---:|---:|---|",
        "| field\\_000 | category | kept | 0.980 | 8 / 8 | 17 | 544 B |  |",
        "| field\\_001 | number | dropped | 0.346 | 0 / 1 | | | q = 0.25; a\\|b |",
        "",
        "q: share of meaningless fields to expect among those that score as high, told by shuffled copies of the fields",
        "",
        (
            "100\u202f021 rows tell as much as 1\u202f812 positive and 5\u202f412 negative independent observations of equal weight. "
            "Self-test: passed; field\\_000 shuffled, the slim model's AUC changes by \u22120.04000, which is told."
        ),
        (
            "The bound is of these two trained networks: another seed may train others; evaluate.retrains makes it one of any "
            "seed."
        ),
        "It is for look 1 at this slice, at 95 %: all looks at it together are ever wrong with a chance of at most 5 %.",
        (
            "Pilot: 100\u202f021 such rows were planned to certify a loss of 0.00210, 0.00100 with about 441\u202f000; by the error "
            "that was found they certify 0.00130."
        ),
        "",
        "Method some-method, seed 0, data `a1b2a1b2a1b2a1b2`.",
    ]


def test_the_short_report_of_doubts_says_them_all_in_order():
    doubted = facts(2, verdict="rejected")
    doubted |= {
        "leaks": [{"trusted": False, "said": "it tells"}],
        "pairs": [],
        "diff": {"changes": {}},
        "stoppable": [],
    }
    doubted |= {"training": {"full": None, "slim": None, "longer": "slim", "said": "It trained longer"}}
    doubted["champion"] = {"model": "m", "version": "3", "auc": None, "reason": "it cannot read this log"}
    doubted["pilot"] = {"planned": None, "found": None, "rows_needed": None}
    lines = markdown(doubted).splitlines()
    assert lines[2:4] == ["- **Looks like a leak: it tells.**", ""]
    assert lines[5:9] == [
        "",
        "With 95 % confidence the AUC changes by so and so much.",
        "",
        "**Mind:** It trained longer.",
    ]
    text = "\n".join(lines)
    assert "## Columns that no kept field reads\n\nNone.\n\n## Fields\n" in text
    assert (
        "\n\n## Fields that meet\n\nNone.\n\n## Against the champion\n\nm version 3 is champion. It cannot read this log.\n\n## Since the champion's audit\n\nNo field changed its fate.\n\n"
        in text
    )
    assert "Pilot" not in text and piloted(doubted) == ""


def test_marks_of_the_auc_figure_stand_in_proportion_with_a_tenth_of_room_on_either_side():
    told = facts()
    told["auc"] |= {"low": -0.003, "high": 0.001, "difference": 0.0}
    expected = {
        "low": 100 / 12,
        "allowed": 100 * 6 / 12,
        "zero": 100 * 8.5 / 12,
        "difference": 100 * 8.5 / 12,
        "high": 1100 / 12,
    }
    assert axis(told) == pytest.approx(expected)
    told["auc"] |= {"low": 0.0, "high": 0.0}
    told["allowed_auc_loss"] = 0.0
    assert axis(told) == pytest.approx(dict.fromkeys(expected, 50.0))


def test_a_score_has_three_decimals_unless_it_is_below_a_hundredth_of_a_nat():
    scores = {
        0.01: "0.010",
        0.00999: "0.01",
        0.00123: "0.0012",
        -0.00456: "-0.0046",
        0.0: "0.000",
        1.5: "1.500",
        -0.01: "-0.010",
    }
    assert [scored({"score": score, "spread": None}) for score in scores] == list(scores.values())
    assert scored({"score": 0.5, "spread": 0.0}) == "0.500 \u00b1 0.000"


def test_fields_are_ranked_by_score_and_then_by_name():
    fields = [{"name": name, "score": score} for name, score in (("b", 0.1), ("c", 0.9), ("a", 0.1))]
    assert [field["name"] for field in ranked({"fields": fields})] == ["c", "a", "b"]


def test_changes_that_need_a_decision_come_first_and_say_how_the_fate_and_the_score_moved():
    def change(what, before, after, old, new):
        return {"what": what, "before": before, "after": after, "score_before": old, "score_after": new}

    found = {
        "u": change("unstable", "kept", "kept", 0.5, 0.51),
        "g": change("gone", "dropped", "", 0.1, None),
        "b": change("born", "", "kept", None, 0.75),
        "r": change("revived", "dropped", "kept", 0.0, 0.9),
        "z": change("died", "kept", "dropped", 0.9, 0.1),
        "d": change("died", "kept", "dropped", 0.8, 0.2),
    }
    assert changes({"diff": {"changes": found}}) == [
        ("d", "died, kept to dropped, score 0.800 to 0.200"),
        ("z", "died, kept to dropped, score 0.900 to 0.100"),
        ("r", "revived, dropped to kept, score 0.000 to 0.900"),
        ("b", "born, kept, score 0.750"),
        ("g", "gone, dropped, score 0.100"),
        ("u", "unstable, kept, score 0.500 to 0.510"),
    ]
    assert changes({"diff": None}) == []


def test_what_nothing_became_has_no_ratio_and_what_is_nearly_the_same_changed_by_nothing():
    told = facts(2)
    told["size"]["full"] |= {"embedding_rows": 0, "dense_bytes": 1000, "multiply_adds": 1000}
    told["size"]["slim"] |= {"embedding_rows": 0, "dense_bytes": 996, "multiply_adds": 1004}
    told["retrains"] = {"differences": [0.1, 0.2], "disagree": False}
    rows = {name: rest for name, *rest in before_after(told)}
    assert (
        rows["Embedding rows"] == ["0", "0", ""] and rows["Other weights"][2] == "0 %" == rows["Multiply-adds a row"][2]
    )
    told["size"]["slim"]["dense_bytes"] = 1010
    assert {row[0]: row[3] for row in before_after(told)}["Other weights"] == "+1 %"
    assert "AUC, mean of 2 trainings" in rows and "Hidden units" not in rows and "Pairs of fields that meet" not in rows


def test_several_tasks_have_rows_of_their_own_and_what_decides_is_named():
    told = facts(2)
    parts = [{key: told[key] for key in ("auc", "quality", "retrains")} | {"task": name} for name in ("click", "buy")]
    several = {**told, "tasks": parts, "task": "buy"}
    names = [row[0] for row in before_after(several)]
    assert names[-8::4] == ["AUC, click", "AUC, buy"] and names[-1] == "Calibration error (ECE), buy"
    assert consequence(several).startswith("Of the tasks 'buy' decides: AUC goes from")
    tests = [{"task": name, "self_test": {**told["self_test"], "field": ""}} for name in ("a*", "b")]
    assert self_tests({"tasks": tests}) == r"Self-test of a\*: passed; of b: passed"
    disagree = {"differences": [0.1], "disagree": True}
    minds = mind({**told, "tasks": [parts[0], parts[1] | {"retrains": disagree}], "made": {"note": "n"}})
    assert (
        minds[0] == "In the search n"
        and minds[1].startswith("task 'buy': Trainings from other seeds")
        and len(minds) == 2
    )


def test_widths_of_a_search_stand_in_order_of_their_numbers_and_others_by_name():
    told = facts(2)
    figures = {"width_16/field_000": 3, "width_2/field_000": 2, "error/field_001": 1, "on/a x b": 4, "plain": 5}
    told["made"]["evidence"] = figures
    assert evidence_of(told) == {
        "plain": {"plain": 5},
        "kinds": ["error", "width_2", "width_16"],
        "by_field": [("field_000", [None, 2, 3]), ("field_001", [1, None, None])],
        "others": {"on/a x b": 4},
    }


def test_what_the_pilot_planned_ends_with_what_its_slices_can():
    told = facts(2)
    told["pilot"] = {
        "planned": 0.002,
        "found": None,
        "rows_needed": None,
        "slices": [{"name": "s", "certifies": 0.1, "allowed": 0.2}],
    }
    start = "100\u202f021 such rows were planned to certify a loss of 0.00200"
    assert piloted(told) == f"{start}; their rows decide all 1 slices"
    told["pilot"]["slices"] = []
    assert piloted(told) == start


def test_the_longest_bar_is_of_the_best_field_however_small_and_none_is_wider_than_the_page():
    for scores, width in (([0.5, 0.25], "50.00%"), ([4.0, 2.0], "100.00%")):
        told = facts(2)
        for field, score in zip(told["fields"], scores):
            field["score"] = score
        bars = [a["style"] for t, a in Page(html(told)).tags if t == "span" and a.get("class") == "bar"]
        assert bars[0] == f"width:{width}", bars
