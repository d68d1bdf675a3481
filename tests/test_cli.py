"""The command line: what was typed wrong is said in one sentence with its exit class, and nothing is left behind."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import yaml
from mlflow import MlflowClient
from services import HANG, empty_store
from slimrec.pipelines.__main__ import main as pipelines
from test_house import without

from slimrec import __version__
from slimrec.cli import FAMILIES
from slimrec.cli import main as slimrec
from slimrec.config import read_recipe
from slimrec.errors import ConfigError

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "pipelines" / "recipes" / "demo.yaml")
COMMANDS = {name for commands in FAMILIES.values() for name in commands}
TRAIN = ("boto3", "jinja2", "kubeflow", "matplotlib", "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "sklearn")
TRAIN += ("torch", "tqdm", "botocore")
PIPELINES = ("docker", "kfp", "kfp_server_api", "kubernetes", "requests", "urllib3")


def said(words, capfd, monkeypatch) -> tuple[int, str]:
    """The exit code, and what went to standard error."""
    monkeypatch.setattr(sys, "argv", ["slimrec", *words])
    with pytest.raises(SystemExit) as ended:
        slimrec()
    return ended.value.code, capfd.readouterr().err


def test_a_folder_that_a_stage_does_not_know_is_refused_with_those_it_has(capfd, monkeypatch, tmp_path):
    words = ["stage", "ingest", DEMO, "--path", f"datset={tmp_path / 'made'}"]
    code, error = said(words, capfd, monkeypatch)
    assert (code, error) == (20, "slimrec: stage 'ingest' has no folder 'datset'; did you mean 'dataset'?\n")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_was_forgotten_is_named(capfd, monkeypatch, tmp_path):
    code, error = said(["stage", "prune", DEMO, "--path", f"gated={tmp_path}"], capfd, monkeypatch)
    assert code == 20 and "needs the folders gated, selection, slim: selection, slim not given" in error


def test_what_a_stage_prints_is_its_figures_alone_and_its_remarks_go_to_standard_error(capfd, monkeypatch, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("ingest: {source: 'planted:rows=2000,seed=0'}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["slimrec", "stage", "ingest", str(recipe), "--path", f"dataset={tmp_path / 'd'}"])
    with pytest.raises(SystemExit, match="0"):
        slimrec()
    told = capfd.readouterr()
    assert json.loads(told.out)["rows"] == 2000 and "slimrec: " in told.err and "can certify" in told.err


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(capfd, monkeypatch, tmp_path):
    code, error = said(["planted", str(tmp_path / "no" / "log.parquet"), "--rows", "5"], capfd, monkeypatch)
    assert code == 20 and error.startswith("slimrec: ") and "no/log.parquet" in error and error.count("\n") == 1


@pytest.mark.parametrize("words", [["schema", "--label", "y"], ["certify", *"--label y --full a --slim b".split()]])
def test_what_is_said_of_a_log_never_takes_its_place(capfd, monkeypatch, tmp_path, words):
    log = tmp_path / "log.csv"
    log.write_text("y,a,b\n" + "0,.1,.2\n1,.3,.1\n" * 50)
    before, option = log.read_bytes(), "--output" if words[0] == "schema" else "--report"
    code, error = said([words[0], str(log), *words[1:], option, str(log)], capfd, monkeypatch)
    assert code == 20 and "write elsewhere" in error and log.read_bytes() == before


def test_an_audit_makes_nothing_among_the_files_of_its_log(capfd, monkeypatch, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text("click,a\n" + "0,x\n1,y\n" * 50)
    for output in (tmp_path / "log", tmp_path / "log" / "run"):
        code, error = said(["audit", str(tmp_path / "log"), "--output", str(output)], capfd, monkeypatch)
        assert code == 20 and "write elsewhere" in error and len(list((tmp_path / "log").iterdir())) == 1


def test_a_log_of_nothing_but_its_label_is_refused_in_its_own_words(capfd, monkeypatch, tmp_path):
    (tmp_path / "log.csv").write_text("click\n" + "0\n1\n" * 50)
    code, error = said(["schema", str(tmp_path / "log.csv")], capfd, monkeypatch)
    assert code == 10 and "no column beside 'click' that can be a field" in error


def test_a_planted_log_is_not_written_under_a_name_of_another_format(capfd, monkeypatch, tmp_path):
    code, error = said(["planted", str(tmp_path / "log.csv"), "--rows", "5"], capfd, monkeypatch)
    assert code == 20 and ".parquet or .pq" in error and not any(tmp_path.iterdir())


def test_an_empty_recipe_says_what_was_expected(capfd, monkeypatch, tmp_path):
    (tmp_path / "empty.yaml").touch()
    code, error = said(["stage", "prune", str(tmp_path / "empty.yaml"), "--path", "a=b"], capfd, monkeypatch)
    assert code == 20 and "empty.yaml: expected sections (name: ...), found nothing" in error


@pytest.mark.parametrize("program", [slimrec, pipelines])
def test_without_a_command_all_commands_are_shown_whatever_the_program_is_called(capsys, program):
    with pytest.raises(SystemExit) as ended:
        program([])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and "Take a schedule off" in told
    assert all(re.search(rf"(?m)^\W*{name}\s", told) for name in COMMANDS)


def test_the_commands_are_those_that_the_pages_promise():
    promised = "audit run transfer submit upload schedule unschedule list compile predict certify schema promote rollback history"
    assert COMMANDS == {*promised.split(), "verify", "push", "pull", "planted", "stage"}


def test_the_program_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        slimrec(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"slimrec {__version__}\n"


@pytest.mark.parametrize("words", [["lst"], ["run"], ["run", DEMO, "--runner", "dockr"], ["list", "--hst", "x"]])
def test_what_is_no_command_ends_with_2(capsys, words):
    with pytest.raises(SystemExit) as ended:
        slimrec(words)
    assert ended.value.code == 2 and "Usage: slimrec" in capsys.readouterr().err


def bare(*words: str | list[str], lacks, cwd, **environment) -> subprocess.CompletedProcess:
    """The program in an installation that lacks some packages; lists of words are runs of it, until one does not end well."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KFP", "MLFLOW", "SLIMREC"))}
    source = (
        without(*lacks)
        .replace("ImportError(", "ModuleNotFoundError(")
        .replace(" on this floor')", " here', name=name)")
    )
    runs = words if isinstance(words[0], list) else [[str(word) for word in words]]
    source += f"from slimrec.cli import main\nfor words in {list(runs)!r}:\n    try:\n        main(words)\n"
    source += "    except SystemExit as ended:\n        if ended.code:\n            raise\n"
    return subprocess.run(
        [sys.executable, "-c", source],
        env=kept | environment, cwd=cwd, capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip


def test_a_base_installation_tells_what_there_is(tmp_path):
    asked = [["--help"], ["--version"], *([name, "--help"] for name in sorted(COMMANDS))]
    done = bare(*asked, lacks=TRAIN + PIPELINES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: slimrec") == len(asked) - 1 and "slimrec " + __version__ in done.stdout


@pytest.mark.parametrize(
    ("words", "lacks", "extra"),
    [
        (["run", DEMO], PIPELINES, "pipelines"),
        (["run", DEMO], TRAIN, "train"),
        (["submit", DEMO, "--host", "http://127.0.0.1:9"], PIPELINES, "pipelines"),
        (["list", "--host", "http://127.0.0.1:9"], PIPELINES, "pipelines"),
        (["compile", DEMO, "--output", "a.yaml", "--allow-tag"], PIPELINES, "pipelines"),
        (["schema", "a.parquet"], TRAIN, "train"),
        (["predict", "model", "a.parquet"], TRAIN, "train"),
        (["history", "x"], TRAIN, "train"),
        (["pull", "s3://a/b", "c"], TRAIN, "train"),
        (["planted", "a.parquet"], TRAIN, "train"),
    ],
)
def test_a_command_that_needs_an_extra_says_which_in_one_sentence(tmp_path, words, lacks, extra):
    done = bare(*words, lacks=lacks, cwd=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 20 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f'pip install "slimrec[{extra}]"' in done.stderr and not any(tmp_path.iterdir())


def test_asking_a_cluster_imports_no_compiler(tmp_path):
    done = bare("list", "--host", "http://127.0.0.1:9", lacks=("kfp", "torch", "numpy", "mlflow"), cwd=tmp_path)
    assert done.returncode == 30 and "cannot be reached" in done.stderr


def test_a_pipeline_is_compiled_with_its_recipe_as_argument_as_option_and_without_one(tmp_path, capsys):
    for name, words in {"a": [DEMO], "o": ["--recipe", DEMO], "n": []}.items():
        with pytest.raises(SystemExit) as ended:
            slimrec(["compile", *words, "--output", str(tmp_path / "made" / f"{name}.yaml"), "--allow-tag"])
        assert ended.value.code == 0, capsys.readouterr().err
    texts = [(tmp_path / "made" / f"{name}.yaml").read_bytes() for name in "aon"]
    assert texts[0] == texts[1] != texts[2]
    with pytest.raises(SystemExit, match="20"):
        slimrec(["compile", DEMO, "--recipe", DEMO, "--output", str(tmp_path / "b.yaml"), "--allow-tag"])
    assert "give one" in capsys.readouterr().err


def test_a_schema_is_drafted_into_a_folder_that_is_not_there_yet(tmp_path, capsys):
    (tmp_path / "log.csv").write_text("click,site\n1,a\n0,b\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        slimrec(["schema", str(tmp_path / "log.csv"), "--output", str(tmp_path / "new" / "er" / "log.schema.yaml")])
    assert ended.value.code == 0 and "site" in (tmp_path / "new" / "er" / "log.schema.yaml").read_text()


@pytest.mark.parametrize("command", ["history", "promote", "rollback"])
@pytest.mark.parametrize("uri", ["", "sqlite:///nowhere/mlflow.db"])
def test_looking_into_a_registry_makes_none(tmp_path, monkeypatch, capfd, command, uri):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, error = said([command, "shop"], capfd, monkeypatch)
    assert code == 20 and "MLFLOW_TRACKING_URI" in error and not any(tmp_path.iterdir())


def test_the_registry_is_by_default_that_of_the_runs_in_this_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    MlflowClient(empty_store(tmp_path / "runs" / "mlflow")).create_registered_model("shop")
    with pytest.raises(SystemExit) as ended:
        slimrec(["history", "shop"])
    assert ended.value.code == 0 and "champion of shop: none" in capfd.readouterr().out


def drafted(folder: Path, *more: str) -> tuple[Path, dict]:
    """What `audit` writes before it runs, and the recipe in it."""
    from slimrec.pipelines.drafted import write

    log = folder / "Shop log.csv"
    rows = "".join(f"{i % 3 == 0:d},{i % 7},a{i % 5}\n" for i in range(300))
    log.write_text(f"bought,price,site\n{rows}", encoding="utf-8")
    path = write(str(log), "bought", folder / "made", *(more or (None, None)))
    return path, yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_log_is_audited_without_a_recipe_by_one_that_is_left_for_editing(tmp_path):
    path, raw = drafted(tmp_path)
    assert sorted(each.name for each in path.parent.iterdir()) == ["made.schema.yaml", "made.yaml"]
    recipe, demo = read_recipe(path), read_recipe(DEMO)
    assert recipe.ingest.source == str(tmp_path / "Shop log.csv") and raw["ingest"]["fields"] == "made.schema.yaml"
    assert recipe.register.name == "Shop-log" and recipe.ingest.split.by == "auto"
    assert (recipe.pretrain, recipe.finetune, recipe.evaluate) == (demo.pretrain, demo.finetune, demo.evaluate)
    assert f"slimrec run {path} --output {path.parent}" in path.read_text(encoding="utf-8")


def test_a_log_may_be_audited_by_the_sections_of_another_recipe(tmp_path):
    mine = tmp_path / "mine.yaml"
    told = {"ingest": {"source": "x", "fields": "y", "max_rows": 200}, "prune": {"budget": {"keep": 0.5}},
            "pretrain": {"method": "permutation"}, "register": {"name": "z", "approval": "manual"}}  # fmt: skip
    mine.write_text(yaml.safe_dump(told), encoding="utf-8")
    recipe = read_recipe(drafted(tmp_path, "shop", mine)[0])
    assert (recipe.ingest.max_rows, recipe.prune.budget.keep, recipe.pretrain.method) == (200, 0.5, "permutation")
    assert (recipe.register.name, recipe.register.approval) == ("shop", "manual")


def test_edits_of_a_drafted_recipe_or_schema_are_not_written_over(tmp_path):
    path, _ = drafted(tmp_path)
    assert drafted(tmp_path)[0] == path  # the same again is no conflict
    for edited in (path, path.with_suffix(".schema.yaml")):
        before = edited.read_text(encoding="utf-8")
        edited.write_text(before + "# mine\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="runs what is there"):
            drafted(tmp_path)
        assert edited.read_text(encoding="utf-8").endswith("# mine\n")
        edited.write_text(before, encoding="utf-8")


@pytest.mark.battery
def test_a_log_with_semicolons_null_and_yes_or_no_is_audited_in_one_go(tmp_path):
    """What the first hour is: a published CSV, one command, a verdict; then the champion scores the log itself."""
    random = np.random.default_rng(0)
    device, price = random.integers(0, 8, 3000), random.lognormal(size=3000).round(2)
    bought = random.random(3000) < 1 / (1 + np.exp(-(device - 4) - np.log(price)))
    lines = [
        f"{'NULL' if i % 50 == 0 else d};phone {d};{'NULL' if i % 40 == 0 else p};{'yes' if b else 'no'}"
        for i, (d, p, b) in enumerate(zip(device, price, bought))
    ]
    (tmp_path / "shop.csv").write_text("code;device;price;bought\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(small.RECIPE), encoding="utf-8")
    words = ["audit", "shop.csv", "--label", "bought", "--recipe", "short.yaml"]
    done = bare(*words, lacks=(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "slimrec run runs/shop/shop.yaml`" in done.stdout and "Verdict" in done.stdout
    report = json.loads((tmp_path / "runs/shop/evaluate/report/report.json").read_text(encoding="utf-8"))
    assert report["auc"]["full"] > 0.7 or report["auc"]["slim"] > 0.7
    assert "champion of shop: version 1" in bare("history", "shop", lacks=(), cwd=tmp_path).stdout
    scored = bare("predict", "models:/shop@champion", "shop.csv", lacks=(), cwd=tmp_path)
    assert scored.returncode == 0 and len(scored.stdout.splitlines()) == 3000, scored.stderr


def ended(words: str, streams: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """The program in a shell, its standard streams as they say: 9 is a pipe that nobody reads any more."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    shell = f"exec {sys.executable} -c 'from slimrec.cli import main; main()' {words} {streams}"
    shell = f"exec 9> >(exec <&-); wait $!; {shell}"
    return subprocess.run(
        ["bash", "-c", shell], env=kept | {"PYTHONPATH": str(ROOT), **environment}, cwd=folder,
        capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("streams", "code", "why"),
    [
        (">&-", 20, "standard output is closed"),
        (">/dev/full", 30, "no space left"),
        (">&9", 30, "whoever reads standard output closed it"),
        (">/dev/full 2>&-", 30, ""),
    ],
)
@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_a_result_that_cannot_be_written_does_not_end_well(tmp_path, streams, code, why, environment):
    done = ended("--version", streams, tmp_path, **environment)
    assert done.returncode == code and why in done.stderr and len(done.stderr.splitlines()) == bool(why), done.stderr


def test_an_error_is_not_printed_among_results_where_standard_error_is_closed(tmp_path):
    done = ended("verify nix", "2>&- <&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (10, "", "")
