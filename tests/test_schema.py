"""What a person may write into a schema: options that do nothing are refused, files in the usual encodings are read."""

import pytest

from slimrec.config import read_recipe, read_schema
from slimrec.errors import ConfigError
from slimrec.schema import Schema

FIELDS = {
    "category": {"name": "f", "kind": "category"},
    "hashed category": {"name": "f", "kind": "category", "hash_rows": 10},
    "number": {"name": "f", "kind": "number"},
    "squared number": {"name": "f", "kind": "number", "discretise": "log_square"},
    "binned number": {"name": "f", "kind": "number", "discretise": "quantile"},
    "vector": {"name": "f", "kind": "vector", "width": 2},
    "bag": {"name": "f", "kind": "bag"},
}
OPTIONS = {  # value, and where it has an effect
    "min_count": (2, {"category", "squared number", "bag"}),
    "hash_rows": (5, {"category", "hashed category", "bag"}),
    "separator": ("|", {"bag"}),
    "max_length": (3, {"bag"}),
    "width": (3, {"vector"}),
    "scale": ("log", {"number", "vector"}),
    "bins": (4, {"binned number"}),
    "nonfinite": ("missing", {"number", "squared number", "binned number", "vector"}),
    "embedding_dim": (4, {"category", "hashed category", "squared number", "binned number", "bag"}),
    "discretised": (["a"], set()),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", FIELDS)
def test_an_option_is_taken_where_it_has_an_effect_and_nowhere_else(kind, option):
    value, works = OPTIONS[option]
    schema = {"label": "y", "fields": [{**FIELDS[kind], option: value}]}
    if kind in works:
        assert read_schema(schema)
    else:
        with pytest.raises(ConfigError, match=f"field 'f'.*`{option}`"):
            read_schema(schema)


def test_a_fitted_schema_of_an_earlier_release_is_read_with_options_that_did_nothing():
    field = {"name": "f", "kind": "category", "separator": "|", "statistics": {"rows": 4}}
    assert Schema.model_validate({"label": "y", "fields": [field]})["f"].separator == "|"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark"])
def test_schemas_and_recipes_are_read_in_the_encodings_of_usual_shells(tmp_path, encoding):
    schema = "label: y\nfields:\n  - {name: größe, kind: number}\n"
    recipe = "ingest: {source: log, fields: schema.yaml}\n"
    for name, text in (("schema.yaml", schema), ("recipe.yaml", recipe)):
        mark = "\ufeff" if "mark" in encoding else ""
        (tmp_path / name).write_bytes((mark + text).encode(encoding.partition(" ")[0]))
    assert read_schema(tmp_path / "schema.yaml").names == ("größe",)
    assert read_recipe(tmp_path / "recipe.yaml").ingest.fields["label"] == "y"


@pytest.mark.parametrize("content", ["label: ü".encode("latin-1"), "label: y".encode("utf-16-le"), b"\xff\xfelabel"])
def test_other_encodings_end_in_one_sentence(tmp_path, content):
    (tmp_path / "schema.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="schema.yaml") as caught:
        read_schema(tmp_path / "schema.yaml")
    assert "\n" not in str(caught.value)


def test_a_recipe_means_what_is_written_and_not_what_yaml_1_1_makes_of_it(tmp_path):
    """A code with a zero in front was read in base 8, a clock in base 60, a day as no text."""
    (tmp_path / "recipe.yaml").write_text(
        "ingest:\n  source: planted:rows=2000,seed=0\n  audit_date: 2026-01-31\n"
        "evaluate: {slices: [{of: site, values: [02134, 1:30, 2026-01-31, 12, -3, 1.5, true]}]}\n"
    )
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert recipe.ingest.audit_date == "2026-01-31"
    assert recipe.evaluate.slices[0].values == ("02134", "1:30", "2026-01-31", 12, -3, 1.5, True)


@pytest.mark.parametrize(
    "written, said",
    [
        ("label: y, fields: [{name: no, kind: category}]", "text is needed (put it in quotation marks), got False"),
        ("label: y, fields: [{name: 1, kind: category}]", "text is needed (put it in quotation marks), got 1"),
        ("label: y, missing: NA, fields: [{name: a, kind: category}]", "Schema.missing: a list is needed"),
        ("label: y, fields: [a, b]", "Schema.fields.0: a section is needed, {name: value}"),
    ],
)
def test_what_is_wrong_with_a_schema_is_said_in_words_of_yaml(tmp_path, written, said):
    (tmp_path / "schema.yaml").write_text("{" + written + "}")
    with pytest.raises(ConfigError) as error:
        read_schema(tmp_path / "schema.yaml")
    assert said in str(error.value)


@pytest.mark.parametrize("role", ["weight", "time", "group"])
def test_the_label_is_neither_weight_nor_time_nor_group(role):
    """As a weight it took all that is not clicked out of training and verdict, without a word."""
    with pytest.raises(ConfigError, match=f"`{role}` names the label column 'y'"):
        read_schema({"label": "y", role: "y", "fields": [{"name": "a", "kind": "category"}]})
