"""A recipe and a schema as a person writes them: strict YAML, and all that can be refused before a step runs."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import yaml

from slimrec.config import GROUP_SIZE, EvaluateConfig, Recipe, SliceConfig, parse
from slimrec.errors import ConfigError, InputError, did_you_mean
from slimrec.probes import is_probe, with_probes
from slimrec.schema import Schema


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and aliases (the road of 'billion laughs')."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*) are not allowed", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key '{twice[0]}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-8 with a byte order mark, as some shells write `>`."""
    content = path.read_bytes()
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not {encoding} text (byte {error.start}); save it as UTF-8") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; no such file is an InputError, anything else wrong with it a ConfigError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        loader = _UniqueKeys(_decoded(path))
        try:
            values = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not the YAML we read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: expected sections (name: ...), found {found}")
    return values


def read_schema(fields: str | Path | dict[str, Any]) -> Schema:
    """The schema a person wrote: a YAML file or its content."""
    schema = parse(Schema, fields if isinstance(fields, dict) else read_yaml(fields))
    for name in filter(is_probe, schema.names):
        raise ConfigError(
            f"field '{name}' is named like a probe, a shuffled copy that a search makes; give it another `name`, and "
            f"say `column: {json.dumps(name, ensure_ascii=False)}`"
        )
    return schema


def read_recipe(path: str | Path) -> Recipe:
    """A recipe with its schema file inlined (relative to the recipe), so that it travels as one value."""
    values = read_yaml(path)
    ingest = values.get("ingest")
    if isinstance(ingest, dict) and isinstance(ingest.get("fields"), str):
        beside = Path(path).parent / ingest["fields"]
        content = read_yaml(beside if beside.is_file() else ingest["fields"])
        values = {**values, "ingest": {**ingest, "fields": content}}
    recipe = parse(Recipe, values)
    check_schema(recipe)
    return recipe


def check_schema(recipe: Recipe) -> None:
    """Raises ConfigError for a log without a schema, one that is none, and a budget that its fields cannot meet."""
    if recipe.ingest.fields is not None:
        schema, per_field = read_schema(recipe.ingest.fields), recipe.pretrain.probes
        searched = with_probes(schema, per_field, seed=0) if per_field else schema
        recipe.prune.budget.check(len(schema.fields), len(searched.fields) - len(schema.fields))
        check_slices(recipe.evaluate.slices, schema)
        check_tasks(recipe.evaluate, schema)
        if schema.tasks and recipe.prune.hidden_keep is not None:
            raise ConfigError(
                "prune.hidden_keep cuts the hidden units of one label's network; leave it out with `tasks`"
            )
        by_group = sorted({"grouped_auc", "ndcg"} & set(recipe.evaluate.binding))
        if by_group and not schema.group:
            raise ConfigError(f"evaluate.binding: {by_group[0]} needs a `group` in the schema: the column of the user")
    elif not recipe.ingest.source.startswith("planted:"):
        raise ConfigError("IngestConfig needs 'fields': a schema YAML; `slimrec schema PATH` drafts one from the data")


def check_tasks(config: EvaluateConfig, schema: Schema) -> None:
    """Raises ConfigError for a limit of a task that the schema does not name."""
    names = [task.name for task in schema.tasks]
    for name in config.allowed_task_loss:
        if name not in names:
            known = did_you_mean(name, names) if names else "the schema names one `label`"
            raise ConfigError(f"evaluate.allowed_task_loss: there is no task '{name}'; {known}")


def check_slices(slices: tuple[SliceConfig, ...], schema: Schema) -> None:
    """Raises ConfigError for a slice of something that the log has not, or that cannot be sliced so."""
    fields = {field.name: field for field in schema.fields if field.kind != "vector"}
    for each in slices:
        if each.of == GROUP_SIZE and not schema.group:
            raise ConfigError(f"evaluate.slices: '{GROUP_SIZE}' needs a `group` in the schema: the column of the user")
        if each.of != GROUP_SIZE and each.of not in fields:
            allowed = (*fields, GROUP_SIZE)
            raise ConfigError(
                f"evaluate.slices: no category, bag or number is named '{each.of}'; {did_you_mean(each.of, allowed)}"
            )
        field = fields.get(each.of)
        if each.values and (field is None or field.kind == "number" or field.cross):
            raise ConfigError(f"evaluate.slices: '{each.of}' has no `values` to name; say in how many `parts`")
        if field and field.hash_rows and not each.values:
            raise ConfigError(f"evaluate.slices: the values of '{each.of}' are hashed and have no names; give `values`")
