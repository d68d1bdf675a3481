"""Commands that audit on this machine: a log in one go, a recipe, and a single stage by hand."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from slimrec.errors import ConfigError

Output = Annotated[Path | None, typer.Option(help="folder of the run; runs/NAME by default", show_default=False)]
Runner = Annotated[Literal["process", "docker"], typer.Option(help="what a step is run as: docker for a container")]
Memory = Annotated[str, typer.Option(help="what a step's container may use")]
Fresh = Annotated[bool, typer.Option("--fresh", help="repeat the steps whose inputs are those of the last run, too")]


def audit(
    log: Annotated[str, typer.Argument(help="Parquet or CSV: a file, a folder or an s3:// address")],
    label: Annotated[str | None, typer.Option(help="the label column, if its name does not tell")] = None,
    output: Output = None,
    registered_model: Annotated[
        str | None, typer.Option(help="name in the model registry; the log's by default", show_default=False)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="whose sections to take, its log left out; the demo's by default")
    ] = None,
    runner: Runner = "process",
    memory: Memory = "4g",
    fresh: Fresh = False,
) -> None:
    """Audit a log of your own in one go: draft its schema and a recipe into the run's folder, then run that."""
    from slimrec.pipelines.drafted import again, write
    from slimrec.pipelines.local import run as run_here

    _require_torch(runner)
    written = write(log, label, output, registered_model, recipe)
    typer.echo(f"wrote {written} and the schema beside it: edit them, then `{again(written)}`")
    with _resumable():
        run_here(written, written.parent, runner, memory, fresh)


def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file, a section a stage")],
    output: Output = None,
    runner: Runner = "process",
    memory: Memory = "4g",
    fresh: Fresh = False,
) -> None:
    """Run a recipe's audit on this machine; what the last run made of the same inputs is taken over."""
    from slimrec.pipelines.local import folder_of
    from slimrec.pipelines.local import run as run_here

    _require_torch(runner)
    with _resumable():
        run_here(recipe, output or folder_of(recipe), runner, memory, fresh)


def _require_torch(runner: str) -> None:
    """Steps in containers bring their own; those that are processes would each end with a traceback without it."""
    if runner == "process" and find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C is no fault: it ends with the exit code that a shell gives it, and with what to do."""
    try:
        yield
    except KeyboardInterrupt:
        print("slimrec: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None


def stage(
    name: Annotated[
        str,
        typer.Argument(
            help="ingest, sample, pretrain, prune, finetune, evaluate or register; fingerprint and window come before "
            "them; plan, count, merge, encode and gather are ingest in parts"
        ),
    ],
    recipe: Annotated[Path, typer.Argument(help="recipe YAML; the stage reads its own section")],
    path: Annotated[
        list[str], typer.Option(help="NAME=FOLDER, one for each artifact read or written; NAME+=FOLDER for one of many")
    ],
    workspace: Annotated[str, typer.Option(help="folder for checkpoints, kept between tries")] = "",
    part: Annotated[int | None, typer.Option(help="which part to count or encode, from 0 on")] = None,
) -> None:
    """Run one stage by hand, or under torchrun."""
    from slimrec.config import read_recipe
    from slimrec.stages import STAGES, execute
    from slimrec.stages.settle import as_written

    broken = [item for item in path if "=" not in item]
    if broken:
        raise ConfigError(f"--path takes NAME=FOLDER, got '{broken[0]}'")
    values = read_recipe(recipe)
    # the plan's settings are those of ingest; the other parts have none of their own
    section = getattr(values, name, values.ingest) if name in (*STAGES, "plan") else None
    config = {} if section is None else section.model_dump()
    if name == STAGES[0]:
        config = {"recipe": as_written(values)}
    if part is not None:
        config["part"] = part
    with contextlib.redirect_stdout(sys.stderr):  # the figures have standard output for themselves
        metrics = execute(name, config, workspace=workspace, **_folders(path))
    typer.echo(json.dumps(metrics, indent=1, default=str))


def transfer(
    run: Annotated[Path, typer.Argument(help="folder of a run: its selection, its dataset")],
    recipe: Annotated[Path, typer.Argument(help="recipe of that run")],
    backbone: Annotated[str, typer.Option(help="the other network")],
    options: Annotated[str, typer.Option(help="its options, as JSON")] = "{}",
    output: Annotated[Path | None, typer.Option(help="RUN-on-BACKBONE by default", show_default=False)] = None,
) -> None:
    """Train another network on what a run selected, and in full, from new weights; then compare the two."""
    from slimrec.artifacts import read_json
    from slimrec.config import FinetuneConfig, ModelConfig, read_recipe
    from slimrec.stages import execute
    from slimrec.stages.settle import sections
    from slimrec.written import parse

    asked = read_recipe(recipe)
    try:
        given = json.loads(options)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--options takes JSON, got {options!r}: {error}") from None
    model = parse(ModelConfig, {**asked.pretrain.model.model_dump(), "backbone": backbone, "options": given})
    tail = asked.finetune.model_dump(exclude_unset=True) | {"start": "fresh", "model": model.model_dump()}
    told = sections(asked.model_copy(update={"finetune": parse(FinetuneConfig, tail)}))
    output = output or run.with_name(f"{run.name}-on-{backbone}")
    data, subset = run / "ingest" / "dataset", run / "sample" / "subset"
    cut = {"selection": run / "prune" / "selection", "slim": run / "prune" / "slim"}
    trained = {"dataset": data, "subset": subset, "workspace": str(output / "workspace")}
    slim, full, report = (output / name for name in ("tuned", "full", "report"))
    execute("finetune", told["finetune"], **trained, **cut, gated=run / "pretrain" / "gated", tuned=slim)
    execute("pretrain", told["baseline"], **trained, gated=full)
    execute("evaluate", {**told["evaluate"], "champion": ""}, dataset=data, slim=slim, full=full,
            selection=cut["selection"], report=report)  # fmt: skip
    said = read_json(report / "report.json")
    typer.echo(f"{backbone}: AUC {said['auc']['full']:.5f} in full, {said['auc']['slim']:.5f} on what was selected")
    typer.echo(f"{said['verdict']}: {said['reason']}; {report / 'report.html'}")


def _folders(path: list[str]) -> dict[str, str | list[str]]:
    folders: dict[str, str | list[str]] = {}
    for name, folder in (item.split("=", 1) for item in path):
        if name.endswith("+"):
            folders.setdefault(name[:-1], []).append(folder)
        else:
            folders[name] = folder
    return folders
