"""Drafts of a schema: whatever is drafted ingest takes, and what a person should know stands beside it."""

import gzip
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimrec.config import IngestConfig, parse, read_schema
from slimrec.data import planted
from slimrec.data.draft import draft
from slimrec.data.source import open_source
from slimrec.errors import ConfigError, InputError
from slimrec.schema import Schema
from slimrec.stages import ingest

ROWS = 2000


def log(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "click": random.integers(0, 2, rows),
            "siteId": random.integers(0, 900, rows),
            "price": random.lognormal(size=rows).round(4),
            "title": [f"title {i % 50}" for i in range(rows)],
            "day": [f"2026-01-{1 + 20 * i // rows:02d}" for i in range(rows)],
        }
    )


def drafted(folder, source, label=None) -> tuple[Schema, str]:
    """The draft, after ingest has taken it as `slimrec schema SOURCE > schema.yaml` leaves it."""
    text = draft(str(source), label)
    (folder / "schema.yaml").write_text(text)
    config = parse(IngestConfig, {"source": str(source), "fields": str(folder / "schema.yaml")})
    assert ingest.run(config, None, folder / "dataset")["rows"] > 0
    return read_schema(folder / "schema.yaml"), text


def comment(text: str, start: str) -> str:
    """What is said on the line that begins so."""
    return next(line for line in text.splitlines() if line.strip().startswith(start)).partition("#")[2]


def test_a_drafted_schema_is_read_back_and_ingests_as_it_stands(tmp_path):
    table, schema = planted.generate(3000)
    table = table.drop_columns([planted.LOGIT]).append_column("yes", pa.array(["no: # {,"] * 3000))
    pq.write_table(table, tmp_path / "raw.parquet")
    text = draft(str(tmp_path / "raw.parquet"))
    (tmp_path / "schema.yaml").write_text(text)
    read = read_schema(tmp_path / "schema.yaml")
    assert (read.label.column, read.time, read.group) == ("click", "time", "user")
    for field in schema.fields:
        assert (read[field.name].kind, read[field.name].width) == (field.kind, field.width)
    assert "constant" in next(line for line in text.splitlines() if "name: constant" in line).partition("#")[2]
    config = {"source": str(tmp_path / "raw.parquet"), "fields": str(tmp_path / "schema.yaml")}
    assert ingest.run(parse(IngestConfig, config), None, tmp_path / "dataset")["rows"] == 3000


def test_a_draft_needs_a_label_it_can_see(tmp_path):
    log().rename(columns={"click": "clk"}).to_csv(tmp_path / "raw.csv", index=False)
    with pytest.raises(InputError, match="named like a label"):
        draft(str(tmp_path / "raw.csv"))
    with pytest.raises(InputError, match="no column 'clc'; did you mean 'clk'"):
        draft(str(tmp_path / "raw.csv"), label="clc")
    assert "label: clk" in draft(str(tmp_path / "raw.csv"), label="clk")
    middle = sorted(log()["siteId"].unique())[(log()["siteId"].nunique() - 1) // 2]
    assert f"label: {{column: siteId, positive_above: {middle}}}" in draft(str(tmp_path / "raw.csv"), label="siteId")


def test_a_semicolon_csv_with_null_words_decimal_commas_and_yes_no_labels_is_drafted(tmp_path):
    data = log().astype(object)
    data["click"] = data["click"].map({0: "no", 1: "yes"})
    data["price"] = [str(price).replace(".", ",") for price in data["price"]]
    data.loc[5:40, "price"] = "NULL"
    data.to_csv(tmp_path / "log.csv", sep=";", index=False)
    schema, text = drafted(tmp_path, tmp_path / "log.csv")
    assert (schema.csv.separator, schema.csv.decimal, schema.missing) == (";", ",", ("NULL",))
    assert (schema.label.positive, schema["price"].kind, schema.time) == ("yes", "number", "day")
    assert "1.8 % missing" in comment(text, "- {name: price")


def test_quotation_marks_that_quote_nothing_lose_no_line(tmp_path):
    data = log()
    data.loc[[100, 200], "title"] = ['"Round Midnight', '"Heroes']
    for separator, ending in (("\t", "tsv"), (",", "csv")):
        lines = [separator.join(map(str, row)) for row in [list(data.columns), *data.to_numpy().tolist()]]
        (tmp_path / f"log.{ending}").write_text("\n".join(lines))
        schema, text = drafted(tmp_path, tmp_path / f"log.{ending}")
        assert "all 2,000 rows" in text and schema.csv.quote == (None if ending == "tsv" else "")


def test_values_with_line_breaks_and_quoted_tab_files_are_told_from_loose_marks(tmp_path):
    data = log()
    data.loc[7, "title"] = "two\nlines"
    data.to_csv(tmp_path / "log.csv", index=False)
    assert drafted(tmp_path, tmp_path / "log.csv")[0].csv.line_breaks
    data.loc[7, "title"] = 'the "best"'
    data.to_csv(tmp_path / "log.tsv", sep="\t", index=False)
    assert drafted(tmp_path, tmp_path / "log.tsv")[0].csv.quote == '"'


@pytest.mark.parametrize("encoding, found", [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("latin-1", "cp1252")])
def test_encodings_are_guessed(tmp_path, encoding, found):
    log().assign(title="für").to_csv(tmp_path / "log.csv", index=False, encoding=encoding)
    assert drafted(tmp_path, tmp_path / "log.csv")[0].csv.encoding == found
    assert pq.read_table(tmp_path / "dataset" / "vocab" / "title.parquet")["value"].to_pylist() == ["für"]


def test_a_file_without_a_header_is_recognised_and_can_be_drafted_by_places(tmp_path):
    log().to_csv(tmp_path / "log.csv", index=False, header=False)
    with pytest.raises(InputError, match="first line of .*log.csv looks like data.*column_1 to column_5"):
        draft(str(tmp_path / "log.csv"))
    schema, text = drafted(tmp_path, tmp_path / "log.csv", "column_1")
    assert schema.csv.columns == tuple(f"column_{n}" for n in range(1, 6)) and "all 2,000 rows" in text


def test_a_sorted_log_is_judged_from_all_over_it(tmp_path):
    rows = 500_000
    table = pa.table({"click": np.sort(np.arange(rows) % 10 < 3), "late": [None] * 450_000 + [1.5] * 50_000})
    pq.write_table(table, tmp_path / "log.parquet")
    _, text = drafted(tmp_path, tmp_path / "log.parquet")
    assert "30.0 % positive" in text and "90.0 % missing" in text and "of 500,000 rows" in text


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_folders_of_a_partitioned_log_are_drafted(tmp_path, kind):
    for i in range(10):
        folder = tmp_path / "log" / f"dt=2026-01-{i + 1:02d}" / "land=DE"
        folder.mkdir(parents=True)
        part = log()[["click", "price"]][200 * i : 200 * (i + 1)]
        part.to_parquet(folder / "0.parquet") if kind == "parquet" else part.to_csv(folder / "0.csv", index=False)
    schema, _ = drafted(tmp_path, tmp_path / "log")
    assert schema.time == "dt" and schema.names == ("land", "price")


def test_what_no_model_should_read_is_left_out_with_a_word(tmp_path):
    data = log().sort_values("click", kind="stable").sample(frac=1, random_state=0)
    data["empty"], data["again"] = np.nan, data["price"]
    data.to_parquet(tmp_path / "log.parquet")
    schema, text = drafted(tmp_path, tmp_path / "log.parquet")
    assert schema.names == ("again", "price", "siteId", "title")
    assert "left out: __index_level_0__" in text and "left out: empty" in text and "the same as again" in text
    data.to_csv(tmp_path / "log.csv")
    schema, text = drafted(tmp_path, tmp_path / "log.csv")
    assert schema.names == ("again", "price", "siteId", "title") and 'left out: ""' in text


def test_repeated_rows_are_told(tmp_path):
    pd.concat([log(300)] * 10).to_csv(tmp_path / "log.csv", index=False)
    assert "2,700 rows (90.0 %) repeat another one" in drafted(tmp_path, tmp_path / "log.csv")[1]


@pytest.mark.parametrize(
    "values, entry",
    [
        ([10_000_001, 10_000_002], "{column: click, positive_above: 10000001}"),
        ([10**17, 10**17 + 1], f"{{column: click, positive: {10**17 + 1}}}"),
        ([True, False], "click  #"),
        (["True", "False"], "click  #"),
        (["Y", "N"], '{column: click, positive: "Y"}'),
        (["seen", "bought"], '{column: click, positive: "bought"}'),
        (["3", "4.5"], "{column: click, positive_above: 3}"),
        ([0.1, 0.25], "{column: click, positive_above: 0.1}"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_labels_in_other_codes_are_drafted_exactly(tmp_path, values, entry, kind):
    data = log()
    data["click"] = [values[i % 3 % 2] for i in range(ROWS)]
    data.to_parquet(tmp_path / "log.parquet") if kind == "parquet" else data.to_csv(tmp_path / "log.csv", index=False)
    assert f"label: {entry}" in drafted(tmp_path, tmp_path / f"log.{kind}", "click")[1]


def test_labels_that_nobody_can_take_are_refused_with_what_they_hold(tmp_path):
    for values, sentence in {
        ("a", "b", "c"): "3 different texts \\(a, b, c\\)",
        (1, None): "is empty in 1,000 of 2,000",
        (5, 5): "holds 5 in all rows",
    }.items():
        log().assign(click=[values[i % len(values)] for i in range(ROWS)]).to_parquet(tmp_path / "log.parquet")
        with pytest.raises(
            InputError, match=f"label column 'click' {sentence if 'empty' in sentence else '.*' + sentence}"
        ):
            draft(str(tmp_path / "log.parquet"))


def test_other_columns_that_look_like_labels_are_said_with_the_tasks_that_would_take_them(tmp_path):
    random = np.random.default_rng(0)
    bought = np.where(random.random(ROWS) < 0.3, "yes", "no").astype(object)
    bought[:100] = None  # a task need not be observed in every row
    log().assign(Bought=bought, order=np.arange(ROWS) % 40, liked=random.integers(0, 2, ROWS)).to_parquet(
        tmp_path / "log.parquet"
    )
    schema, text = drafted(tmp_path, tmp_path / "log.parquet")
    assert schema.label.column == "click" and not schema.tasks and "Bought" in schema.names
    assert "# Bought, liked look like labels too" in text
    tasks = []
    for line in text[text.index("# tasks:") :].splitlines():
        if not line.startswith("# "):
            break
        tasks.append(line.removeprefix("# "))
    fields = [
        line for line in text[text.index("fields:") :].splitlines() if "Bought" not in line and "liked" not in line
    ]
    (tmp_path / "schema.yaml").write_text("\n".join([*tasks, *fields]))
    config = parse(IngestConfig, {"source": str(tmp_path / "log.parquet"), "fields": str(tmp_path / "schema.yaml")})
    rates = ingest.run(config, None, tmp_path / "several")
    assert [task.name for task in read_schema(tmp_path / "schema.yaml").tasks] == ["click", "Bought", "liked"]
    assert rates["positive_rate/Bought"] == pytest.approx(0.3, abs=0.05)


def test_of_one_label_no_tasks_are_spoken(tmp_path):
    log().assign(order=np.arange(ROWS) % 40, bought=1).to_parquet(tmp_path / "log.parquet")
    assert "tasks" not in drafted(tmp_path, tmp_path / "log.parquet")[1]


@pytest.mark.parametrize("name", ["userId", "movie_id", "ItemID", "itemid", "zip_code", "id"])
def test_numbers_that_are_names_are_categories(tmp_path, name):
    log().rename(columns={"siteId": name}).to_csv(tmp_path / "log.csv", index=False)
    assert drafted(tmp_path, tmp_path / "log.csv")[0][name].kind == "category"


def test_whole_floats_that_a_name_calls_ids_are_categories_and_others_numbers(tmp_path):
    data = log().rename(columns={"siteId": "user_id"})
    data["views"], data["item_id"] = data["user_id"].where(data.index % 7 > 0), data["user_id"] + 0.5
    data["user_id"] = data["views"]  # pandas makes floats of ids where one is missing
    data.to_parquet(tmp_path / "log.parquet")
    schema = drafted(tmp_path, tmp_path / "log.parquet")[0]
    assert [schema[name].kind for name in ("user_id", "item_id", "views")] == ["category", "number", "number"]


@pytest.mark.parametrize("name", ["bid", "paid", "humid", "width"])
def test_numbers_whose_names_only_sound_so_are_numbers(tmp_path, name):
    log().rename(columns={"siteId": name}).to_csv(tmp_path / "log.csv", index=False)
    assert drafted(tmp_path, tmp_path / "log.csv")[0][name].kind == "number"


@pytest.mark.parametrize("words", [False, True])
def test_numbers_whose_order_does_not_tell_the_label_but_they_do_are_names(tmp_path, words):
    random = np.random.default_rng(1)
    number = {"resource": np.sort(random.choice(300_000, 400, replace=False)), "views": np.arange(400) ** 2}
    value = random.integers(0, 400, 12_000)
    logit = random.normal(size=400)[value] + np.sin(value / 60)
    click = random.random(len(value)) < 1 / (1 + np.exp(-logit + random.normal(size=400)[value]))
    views = random.integers(0, 400, len(value))  # a smooth effect, and rows that come often, are a quantity's
    click = click ^ (random.random(len(value)) < 0.3 * np.sin(views / 60) ** 2)
    columns = {"resource": number["resource"][value], "views": number["views"][views]}
    columns["click"] = np.where(click, "yes", "no") if words else click.astype(int)
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    read, text = drafted(tmp_path, tmp_path / "log.parquet")
    assert (read["resource"].kind, read["views"].kind) == ("category", "number")
    assert "numbers that name something" in comment(text, "- {name: resource")


def test_time_is_drafted_only_where_ingest_can_split_by_it(tmp_path):
    data = (
        log().drop(columns="day").assign(timestamp=[None, *range(1, ROWS)], weight=1.5, shown=pd.Timestamp(2026, 1, 1))
    )
    data["shown"] += pd.to_timedelta(np.arange(ROWS), "min")
    data.to_parquet(tmp_path / "log.parquet")
    schema, text = drafted(tmp_path, tmp_path / "log.parquet")
    assert schema.time == "shown" and "# time: timestamp  # not drafted" in text
    assert schema.weight == "weight" and "remove it if this is a feature" in comment(text, "weight:")
    data.assign(shown=data["shown"].where(data.index > 1800, data["shown"][0]), weight=-1.0).to_parquet(
        tmp_path / "log.parquet"
    )
    schema, _ = drafted(tmp_path, tmp_path / "log.parquet")
    assert schema.time is None and schema.weight is None and schema["weight"].kind == "number"


def test_a_column_of_half_floats_is_drafted(tmp_path):
    table = pa.Table.from_pandas(log()).append_column("score", pa.array(log()["price"].to_numpy(np.float16)))
    pq.write_table(table, tmp_path / "log.parquet")
    assert drafted(tmp_path, tmp_path / "log.parquet")[0]["score"].kind == "number"


def test_files_that_are_no_one_log_are_named(tmp_path):
    log().to_parquet(tmp_path / "a.parquet")
    log().assign(price="dear").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="'price' is text in .*b.parquet and number in .*a.parquet"):
        draft(str(tmp_path))
    log().drop(columns="price").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="'price' stands in .*a.parquet and not in .*b.parquet"):
        draft(str(tmp_path))


@pytest.mark.parametrize("line", ["0,5,a", "0,0,a"])
def test_the_one_file_of_several_without_a_header_is_named_by_draft_and_ingest(tmp_path, line):
    (tmp_path / "a.csv").write_text("click,price,site\n" + "0,5,a\n1,6,b\n" * 9, encoding="utf-8")
    (tmp_path / "b.csv").write_text(f"{line}\n" + "1,6,b\n" * 9, encoding="utf-8")
    schema = {"label": "click", "fields": [{"name": "price", "kind": "number"}]}
    config = IngestConfig(source=str(tmp_path), fields=schema)
    for look in (lambda: draft(str(tmp_path)), lambda: open_source(config)):
        with pytest.raises(InputError, match=rf"b\.csv.*first line.*\({line.replace(',', ', ')}\) looks like data"):
            look()


VIEWS = (pa.string_view(), pa.binary_view(), pa.binary(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))


@pytest.mark.parametrize("kind", VIEWS, ids=str)
def test_text_of_every_type_is_drafted_and_ingested(tmp_path, kind):
    table = pa.Table.from_pandas(log())
    titles = table["title"].combine_chunks()
    titles = titles.dictionary_encode() if pa.types.is_dictionary(kind) else titles.cast(kind)
    table = table.set_column(table.column_names.index("title"), "title", titles)
    labels = pa.array(np.where(log()["click"], "yes", "no")).cast(
        kind if not pa.types.is_dictionary(kind) else "string"
    )
    days = pa.array(log()["day"]).cast(pa.binary() if pa.types.is_binary(kind) else pa.string())
    table = table.set_column(0, "click", labels).set_column(table.column_names.index("day"), "day", days)
    pq.write_table(table, tmp_path / "log.parquet")
    schema, _ = drafted(tmp_path, tmp_path / "log.parquet")
    assert (schema["title"].kind, schema.label.positive, schema.time) == ("category", "yes", "day")


def test_files_that_write_one_column_as_dictionary_and_as_text_are_drafted(tmp_path):
    (tmp_path / "log").mkdir()
    log().assign(title=log()["title"].astype("category"), click=1).to_parquet(tmp_path / "log" / "a.parquet")
    log().to_parquet(tmp_path / "log" / "b.parquet")
    assert drafted(tmp_path, tmp_path / "log")[0]["title"].kind == "category"


def test_bytes_that_are_no_text_and_columns_of_nothing_are_left_out_of_a_draft(tmp_path):
    table = pa.Table.from_pandas(log()).append_column("picture", pa.array([b"\xff\xfe", b"\x80"] * (ROWS // 2)))
    table = table.append_column("user", pa.nulls(ROWS)).append_column(
        "far", pa.array(np.arange(ROWS, dtype="u8") + 2**63)
    )
    pq.write_table(table, tmp_path / "log.parquet")
    schema, text = drafted(tmp_path, tmp_path / "log.parquet")
    assert "  # picture is binary, which no field reads" in text and schema.group is None
    assert not {"picture", "user"} & set(schema.names) and schema["far"].kind == "category"


def test_labels_as_decimals_and_as_long_whole_numbers_in_text_are_drafted(tmp_path):
    data = log()
    data.assign(click=[Decimal(value) for value in data["click"]]).to_parquet(tmp_path / "log.parquet")
    assert "% positive" in comment(drafted(tmp_path, tmp_path / "log.parquet")[1], "label:")
    data.assign(click=[str(10**17 + value) for value in data["click"]]).to_csv(tmp_path / "log.csv", index=False)
    assert drafted(tmp_path, tmp_path / "log.csv")[0].label.positive == 10**17 + 1


@pytest.mark.parametrize("value", [0, 1, True, 1.0])
def test_a_label_of_one_class_is_no_draft(tmp_path, value):
    log().assign(click=value).to_parquet(tmp_path / "log.parquet")
    with pytest.raises(InputError, match="'click' holds .* in all rows looked at; two classes are needed"):
        draft(str(tmp_path / "log.parquet"))


def test_a_column_named_like_a_probe_is_drafted_under_another_name_and_refused_as_a_field(tmp_path):
    log().rename(columns={"price": "probe1:price"}).to_csv(tmp_path / "log.csv", index=False)
    schema, _ = drafted(tmp_path, tmp_path / "log.csv")
    assert schema["probe1_price"].column == "probe1:price"
    with pytest.raises(ConfigError, match="'probe0:x' is named like a probe.*`column: \"probe0:x\"`"):
        read_schema({"label": "y", "fields": [{"name": "probe0:x", "kind": "number"}]})


CONTENTS = {
    "plain.csv.gz": ("csv", "is named as gzip, and its content is text"),
    "packed.csv": ("gzip", "is named as text, and its content is gzip.*ends in .gz"),
    "table.tsv": ("parquet", "is named as text, and its content is Parquet.*ends in .parquet"),
    "lines.parquet": ("csv", "is named as Parquet, and its content is text"),
    "archive.csv": ("zip", "is named as text, and its content is a zip archive"),
    "cut.csv.gz": ("cut", "cannot be read as data.*cut off"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_not_what_its_name_says_is_named_by_draft_and_ingest(tmp_path, name):
    written, sentence = CONTENTS[name]
    content = log().to_csv(index=False).encode()
    packed = gzip.compress(content)
    log().to_parquet(tmp_path / "log")
    bodies = {"csv": content, "gzip": packed, "cut": packed[: len(packed) // 2], "zip": b"PK\x03\x04" + packed}
    (tmp_path / name).write_bytes(bodies.get(written) or (tmp_path / "log").read_bytes())
    config = {
        "source": str(tmp_path / name),
        "fields": {"label": "click", "fields": [{"name": "title", "kind": "category"}]},
    }
    for attempt in (
        lambda: draft(str(tmp_path / name)),
        lambda: ingest.run(parse(IngestConfig, config), None, tmp_path / "d"),
    ):
        with pytest.raises(InputError, match=sentence):
            attempt()


def test_a_nul_character_in_a_cell_does_not_make_a_file_utf16(tmp_path):
    log().assign(title=["a\0b", "c", "\0", "dd"] * (ROWS // 4)).to_csv(tmp_path / "log.csv", index=False)
    assert drafted(tmp_path, tmp_path / "log.csv")[0].csv.encoding == "utf-8"
