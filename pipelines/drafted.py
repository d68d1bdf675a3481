"""A schema and a recipe for a log of one's own, drafted into the folder of its run, for a person to edit and run again."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from slimrec.pipelines.local import folder_of

from slimrec.artifacts import write_text
from slimrec.errors import ConfigError, InputError
from slimrec.written import read_yaml

DEMO = Path(__file__).parent / "recipes" / "demo.yaml"
_ENDINGS = re.compile(r"(\.(parquet|parq|pq|csv|tsv|txt))?(\.(gz|gzip|zst|bz2))?$", re.IGNORECASE)


def write(log: str, label: str | None, output: Path | None, model: str | None, like: Path | None) -> Path:
    """Write NAME.yaml and NAME.schema.yaml for `log` into `output`, the folder called NAME; returns the recipe's path.

    The sections are those of the recipe `like`, by default the demo's, with the rows split by time where the schema
    has one. Raises InputError where there is no log or no label in it, and ConfigError where another recipe or schema
    lies there: nobody's edits are written over.
    """
    from slimrec.artifacts.spare import spare
    from slimrec.data.draft import draft

    name = _name(log)
    output = output or folder_of(Path(f"{name}.yaml"))
    spare(log, output, ("",))  # what an audit makes is Parquet, too, and would be read with the log ever after
    path = output / f"{output.absolute().name}.yaml"
    schema = path.with_suffix(".schema.yaml")
    source = log if "://" in log else str(Path(log).absolute())
    recipe = yaml.safe_dump(_recipe(source, schema.name, model or name, like), sort_keys=False, allow_unicode=True)
    head = f"# Drafted by `slimrec audit`; every key, with its default, is in slimrec/config.py. Run it again:\n# {again(path)}\n"
    texts = {schema: draft(log, label), path: head + recipe}
    for each, text in texts.items():
        if each.exists() and each.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{each} is there and not as this command would write it: `{again(path)}` runs what is there; "
                "to begin anew, remove it or give another --output"
            )
    output.mkdir(parents=True, exist_ok=True)
    for each, text in texts.items():
        write_text(each, text)
    return path


def again(recipe: Path) -> str:
    """The command that runs a recipe into the folder that it lies in."""
    words = ["slimrec", "run", str(recipe)]
    return shlex.join(words if folder_of(recipe) == recipe.parent else [*words, "--output", str(recipe.parent)])


def _recipe(source: str, schema: str, model: str, like: Path | None) -> dict[str, Any]:
    told = read_yaml(like or DEMO)
    ingest = told.get("ingest") or {}
    if not isinstance(ingest, dict):
        raise ConfigError(f"{like}: the section ingest is {type(ingest).__name__}; give keys and values")
    if like is None:
        ingest = {"split": {**ingest["split"], "by": "auto"}}
    ingest = {"source": source, "fields": schema} | {
        key: value for key, value in ingest.items() if key not in ("source", "fields")
    }
    return {**told, "ingest": ingest, "register": {**(told.get("register") or {}), "name": model}}


def _name(log: str) -> str:
    """What the log is called without its ending, in letters that a registered model may have."""
    last = log.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", _ENDINGS.sub("", last)).strip("-._")
    if not name:
        raise InputError(f"'{log}' gives the run no name; name its folder: --output FOLDER")
    return name
