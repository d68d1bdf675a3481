"""What README and docs tell people to type, set and open is there: commands with their options, variables, files, links."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from test_manifests import kustomize, of, pods

from slimrec.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = {path: path.read_text(encoding="utf-8") for path in PAGES}
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def code(text: str) -> list[str]:
    """All lines of code: those of blocks, without their comments, and what stands between backticks."""
    lines = [line for block in FENCED.findall(text) for line in block.splitlines()]
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines] + INLINE.findall(FENCED.sub("", text))


def said(command: str) -> list[list[str]]:
    """The words after a command, wherever a page says it; a lone `a | b` in them names several subcommands."""
    starts = re.compile(rf"(?:^|&& |\.venv/bin/){re.escape(command)} (.+)")
    found = [match[1] for text in TEXT.values() for line in code(text) if (match := starts.search(line))]
    return [shlex.split(re.sub(r"\[[^]]*\]|\.\.\.", "", each), comments=True) for each in found if each]


def test_the_pages_hold_commands_of_each_kind():
    for command in ("slimrec", "make", "python -m benchmarks.selection", "kubectl"):
        assert said(command), command


@pytest.mark.parametrize("program", ["slimrec", "python -m pipelines"])
def test_every_command_takes_what_the_pages_give_it(program):
    group = typer.main.get_command(app)
    known = {"--help", *group.commands, *(option for each in group.params for option in each.opts)}
    for words in said(program):
        names = [word for word in words if word != "|"] if "|" in words else words[:1]
        assert not set(names) - known, words
        if words[0] in group.commands and len(words) > 1 and "|" not in words:
            name, *rest = words
            group.commands[name].make_context(name, rest)  # raises for a word too many, an option there is not


def test_every_target_of_make_and_every_benchmark_is_there():
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {words[0] for words in said("make")} <= targets
    named = {name for text in TEXT.values() for name in re.findall(r"python -m benchmarks\.(\w+)", text)}
    assert named <= {path.stem for path in (ROOT / "benchmarks").iterdir()}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()]


def test_every_variable_of_the_environment_means_something():
    used = "".join(
        path.read_text(encoding="utf-8") for path in tracked() if path.suffix in (".py", ".yaml", ".example")
    )
    for page, text in TEXT.items():
        for line in code(text):
            for name in re.findall(r"\b(?:AWS|KFP|MLFLOW|SLIMREC)_[A-Z_]+\b", line):
                assert re.search(rf"\b{name}\b", used), f"{page.name}: nothing reads {name}"


def test_every_link_and_every_file_named_is_there():
    there = {path.relative_to(ROOT).as_posix() for path in tracked()}
    folders = {parent.as_posix() for name in there for parent in Path(name).parents}
    ignored = {"images/digests.json"}  # what a command writes
    for page, text in TEXT.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for line in code(text):
            for name in re.findall(r"\b(?:images|manifests|slimrec|tests|pipelines|docs)/[\w./-]*\w", line):
                assert name in there | folders | ignored, f"{page.name}: {name}"


def test_the_overlay_in_the_operations_page_renders_to_what_it_says(tmp_path):
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    block = next(block for block in FENCED.findall(page) if "kind: Kustomization" in block)
    content = yaml.safe_load(block)
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    deploy = tmp_path / "deploy"
    deploy.mkdir()
    (deploy / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    made = kustomize(deploy)
    images = {
        container["image"] for name, template in pods(made).items() for container in template["spec"]["containers"]
    }
    assert images == {f"{image['newName']}@{image['digest']}" for image in content["images"]}
    settings = next(each["data"] for each in of(made, "ConfigMap"))
    assert settings["artifacts"] == "s3://our-bucket/mlflow" and "auth.ini" in settings
    assert of(made, "PersistentVolumeClaim")[0]["spec"]["storageClassName"] == "shared-files"
