"""The house keeps its floors: who imports whom, what no file may call, what each file says first, what lies on top."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from slimrec.plugins import GATES

ROOT = Path(__file__).parents[1]
PYTHON = sorted(
    path
    for top in ("slimrec", "components", "pipelines", "images", "benchmarks", "tests")
    for path in (ROOT / top).rglob("*.py")
)
TOP = {
    *("pipelines", "components", "images", "manifests", "tests", "benchmarks", "slimrec", "docs", ".ci"),
    *("Makefile", "README.md", "pyproject.toml", "requirements.lock", "requirements-cpu.lock", "requirements-gpu.lock"),
    *(
        ".dockerignore",
        ".gitattributes",
        ".gitignore",
        ".github",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "mkdocs.yml",
    ),
}
# The rooms of the library from the ground up; each may ask those of lower floors, and nobody else.
FLOORS = (
    {"errors", "schema", "batch", "metrics", "optimizers", "preempt"},
    {"faults", "plugins", "probes"},
    {"track", "written"},
    {"artifacts", "selection"},
    {"backbones", "config", "gates"},
    {"data"},
    {"model"},
    {"serving", "verdict"},
    {"pruning", "registry", "serve", "training"},
    {"stages"},
    {"cli"},
)
# Read on machines without torch; only tracking, the registry and the served model know MLflow.
WITHOUT_TORCH = {
    *("__init__", "config", "schema", "selection", "errors", "plugins", "probes", "track", "faults", "written"),
    *("preempt", "artifacts/__init__", "artifacts/codebase", "artifacts/failures", "artifacts/remote"),
    *("gates/__init__", "backbones/__init__", "stages/__init__", "stages/fingerprint", "stages/notify"),
}
WITH_MLFLOW = {
    *("track", "serving/pyfunc"),
    *("registry/registration", "registry/sightings", "registry/versions", "registry/ledger"),
}
PLAIN_WORDS = {"none", "random", "permutation"}  # methods whose names other files may need for other things
BANNED = {"eval", "exec", "compile", "__import__"}
BANNED_ATTRIBUTES = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system")}
BANNED_MODULES = {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> set[str]:
    """All modules imported anywhere below a node, in full."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            found |= {alias.name for alias in each.names}
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute"
            found |= {each.module, *(f"{each.module}.{alias.name}" for alias in each.names)}
    return found


def first_words(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


class WithoutTypes(ast.NodeTransformer):
    """Drops what only a type checker reads."""

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def at_module_level(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions, and without what only a type checker reads."""

    class Drop(WithoutTypes):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Drop().visit(tree)


def library() -> list[Path]:
    return sorted((ROOT / "slimrec").rglob("*.py"))


def room_of(module: str) -> str:
    """The room of `slimrec.ROOM...`; "" for the house itself and for what is not in it."""
    house, _, rest = module.partition(".")
    return rest.partition(".")[0] if house == "slimrec" else ""


def test_every_room_of_the_house_stands_on_one_floor():
    rooms = {path.relative_to(ROOT / "slimrec").parts[0].removesuffix(".py") for path in library()} - {"__init__"}
    assert sorted(rooms) == sorted(room for floor in FLOORS for room in floor)


@pytest.mark.parametrize("path", library(), ids=name_of)
def test_no_room_asks_one_of_its_own_floor_or_above(path):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    own = path.relative_to(ROOT / "slimrec").parts[0].removesuffix(".py")
    asked = {room_of(module) for module in imports(tree_of(path))} & set(floor) - {own}
    assert own == "__init__" or not {room for room in asked if floor[room] >= floor[own]}


def test_no_file_of_the_library_comes_back_to_itself_by_what_it_imports():
    """Late imports count too; what only a type checker reads does not."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in library()
    }
    asked = {name: imports(WithoutTypes().visit(tree_of(path))) & set(files) - {name} for name, path in files.items()}
    assert len(list(TopologicalSorter(asked).static_order())) == len(files)  # a CycleError names the circle


@pytest.mark.parametrize("path", library(), ids=name_of)
def test_the_library_knows_neither_kfp_nor_the_floors_above(path):
    found = imports(tree_of(path))
    assert not first_words(found) & {"kfp", "components", "pipelines", "benchmarks", "tests"}
    above = {module for module in found if room_of(module) in ("components", "pipelines")}
    if "cli" not in path.relative_to(ROOT).parts:
        assert not above


@pytest.mark.parametrize("path", sorted((ROOT / "slimrec" / "cli").glob("*.py")), ids=name_of)
def test_the_command_line_imports_late_whatever_the_base_installation_lacks(path):
    early = imports(at_module_level(tree_of(path)))
    rooms = {room_of(module) for module in early} - {"", "__version__"}
    assert first_words(early) <= {"slimrec", "typer", *sys.stdlib_module_names} and rooms <= {"cli", "errors", "faults"}


@pytest.mark.parametrize("path", library(), ids=name_of)
def test_only_tracking_registry_and_served_model_import_mlflow_and_late(path):
    name = path.relative_to(ROOT / "slimrec").with_suffix("").as_posix()
    if name in WITH_MLFLOW:
        late = name == "serving/pyfunc" or "mlflow" not in first_words(imports(at_module_level(tree_of(path))))
        assert late, "mlflow takes seconds to import: import it inside functions"
    else:
        assert "mlflow" not in first_words(imports(tree_of(path)))


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_the_ground_floor_imports_no_torch(name):
    tree = tree_of(ROOT / "slimrec" / f"{name}.py")
    assert not first_words(imports(tree)) & {"torch", "numpy", "pandas", "pyarrow"}


@pytest.mark.parametrize("path", sorted((ROOT / "components").glob("*.py")), ids=name_of)
def test_components_import_only_kfp_and_the_standard_library(path):
    tree = tree_of(path)
    inside = imports(tree) - imports(at_module_level(tree_of(path)))
    outside = {module for module in imports(at_module_level(tree)) if not module.startswith("slimrec.components")}
    assert first_words(outside) <= {"kfp", *sys.stdlib_module_names}
    assert {module for module in inside if module.startswith("slimrec")} <= {
        *("slimrec.stages", "slimrec.stages.execute_or_exit"),
        *("slimrec.stages.notify", "slimrec.stages.notify.notify"),
    }
    assert first_words(inside) <= {"slimrec", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=name_of)
def test_pipelines_import_no_torch_and_no_stage(path):
    found = imports(tree_of(path))
    assert not first_words(found) & {"torch", "numpy", "mlflow", "benchmarks", "tests"}
    assert not {
        module for module in found if module.startswith(("slimrec.stages", "slimrec.model", "slimrec.training"))
    }


def test_no_file_outside_its_own_names_a_selection_method():
    methods = re.compile(rf"\b({'|'.join(sorted(set(GATES.table) - PLAIN_WORDS))})\b", re.IGNORECASE)
    outside = [path for path in PYTHON if name_of(path).startswith(("slimrec/", "components/", "pipelines/"))]
    outside = [path for path in outside if "gates" not in path.parts]
    found = {name_of(path): methods.findall(path.read_text(encoding="utf-8")) for path in outside}
    assert not {name: words for name, words in found.items() if words}


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_every_file_says_first_what_it_is(path):
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)} needs a docstring on its first line"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_no_file_runs_code_from_data_or_hides_an_error(path):
    tree = tree_of(path)
    assert not first_words(imports(tree)) & BANNED_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Name) and called.id in BANNED), f"line {node.lineno}"
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                assert (called.value.id, called.attr) not in BANNED_ATTRIBUTES, f"line {node.lineno}"
            shell = [word for word in node.keywords if word.arg == "shell"]
            assert not any(isinstance(word.value, ast.Constant) and word.value.value for word in shell)
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except, line {node.lineno}"
            everything = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not (everything and silent), f"an error vanishes, line {node.lineno}"
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "NotImplementedError" not in ast.dump(node.exc), f"a stub, line {node.lineno}"


def test_a_record_is_not_changed_once_it_is_made():
    """Whoever is given a report's facts, a schema or a sketch may rely on them: dataclasses and models are frozen."""
    library = [path for path in PYTHON if name_of(path).startswith("slimrec/")]
    classes = [(name_of(path), node) for path in library for node in ast.walk(tree_of(path)) if is_record(node)]
    assert len(classes) > 20
    assert not [f"{name}: {node.name}" for name, node in classes if not re.search("frozen=True", settings_of(node))]


def is_record(node: ast.AST) -> bool:
    """Whether this is a class that declares itself a dataclass or, not by way of another of ours, a pydantic model."""
    return isinstance(node, ast.ClassDef) and (
        "BaseModel" in map(ast.unparse, node.bases) or "dataclass" in settings_of(node)
    )


def settings_of(node: ast.ClassDef) -> str:
    """Its decorators and its `model_config`, as code."""
    assigned = [part for part in node.body if isinstance(part, ast.Assign)]
    config = [part.value for part in assigned if ast.unparse(part.targets[0]) == "model_config"]
    return " ".join(map(ast.unparse, [*node.decorator_list, *config]))


def test_modules_are_named_for_what_they_hold():
    assert not {path.stem for path in PYTHON} & {"utils", "util", "common", "helpers", "misc"}


def test_the_top_level_holds_what_the_design_says():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in tracked.stdout.splitlines()} <= TOP


def without(*modules: str) -> str:
    """Source that makes importing these modules fail, to be run in front of a program."""
    return (
        "import sys\n"
        "class Forbid:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ImportError(f'{name} is not on this floor')\n"
        "sys.meta_path.insert(0, Forbid())\n"
    )


def run_without(modules: tuple[str, ...], program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", without(*modules) + program], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_ban_on_imports_is_real():
    assert "not on this floor" in run_without(("torch",), "import torch").stderr


def test_slimrec_and_its_config_import_without_kfp_and_torch():
    done = run_without(("kfp", "torch", "numpy", "mlflow"), "import slimrec, slimrec.config, slimrec.stages")
    assert done.returncode == 0, done.stderr


def test_steps_that_run_no_network_start_without_what_runs_one():
    """Each step is a process of its own: what it imports for nothing, every audit waits for."""
    stages = ("window", "register", "ingest", "plan", "count", "merge", "encode", "gather", "sample")
    program = "".join(f"import slimrec.stages.{stage}\n" for stage in stages)
    done = run_without(("torch", "sklearn", "pandas", "mlflow"), program)
    assert done.returncode == 0, done.stderr


def test_the_pipeline_compiles_without_torch(tmp_path):
    words = ["compile", "--output", str(tmp_path / "audit.yaml"), "--recipe", "pipelines/recipes/demo.yaml"]
    words += ["--preset", "L", "--allow-tag"]
    done = run_without(
        ("torch", "numpy", "pyarrow", "mlflow"), f"from slimrec.pipelines.__main__ import main\nmain({words!r})"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "audit.yaml").stat().st_size > 10_000


def test_submitting_needs_no_torch_and_asks_for_a_host():
    words = ["submit", "pipelines/recipes/demo.yaml", "--host", "", "--allow-tag"]
    done = run_without(
        ("torch", "numpy", "pyarrow", "mlflow"), f"from slimrec.pipelines.__main__ import main\nmain({words!r})"
    )
    assert done.returncode == 20
    assert "KFP_HOST" in done.stderr
