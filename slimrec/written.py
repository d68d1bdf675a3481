"""What a person wrote, as a file of YAML or as values, read into a class; what is wrong with it becomes one sentence."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from slimrec.errors import ConfigError, InputError, did_you_mean
from slimrec.probes import is_probe
from slimrec.schema import Schema

Parsed = TypeVar("Parsed", bound=BaseModel)


def parse(cls: type[Parsed], values: dict[str, Any], error: type[Exception] = ConfigError) -> Parsed:
    """Validate a section; the first thing wrong becomes one sentence of a ConfigError (exit 20)."""
    try:
        return cls.model_validate(values)
    except ValidationError as invalid:
        raise error(_sentence(cls, invalid)) from None


def _sentence(cls: type[BaseModel], invalid: ValidationError) -> str:
    first = invalid.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner: Any = cls
        for part in first["loc"][:-1]:
            fields = getattr(owner, "model_fields", {})
            owner = fields[part].annotation if part in fields else None
        allowed = getattr(owner, "model_fields", {})
        hint = f"; {did_you_mean(str(first['loc'][-1]), allowed)}" if allowed else ""
        return f"{cls.__name__} has no '{where}'{hint}"
    if first["type"] == "missing":
        return f"{cls.__name__} needs '{where}'"
    message = _NEEDED.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "string_type" and isinstance(first["input"], bool | int | float | None):
        message += " (put it in quotation marks)"
    return f"{cls.__name__}.{where}: {message}, got {first['input']!r:.120}" if where else message


_NEEDED = {  # what pydantic says of Python, as it is called in YAML
    "tuple_type": "a list is needed, [one, two] or a `- ` before each",
    "dict_type": "a section is needed, {name: value} or lines of name: value",
    "model_type": "a section is needed, {name: value} or lines of name: value",
    "string_type": "text is needed",
}


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


# YAML 1.1 reads 02134 as 1116, 1:30 as 90 and 2026-01-01 as no text: they stay what was written, which is read as needed.
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":int", ":timestamp"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeys.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), [*"-+0123456789"])


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
