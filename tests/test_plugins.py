"""Methods and networks that others bring: by one file and one line, or by a distribution's entry points. As CONTRIBUTING says."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slimrec.artifacts import write_json
from slimrec.config import ModelConfig, PretrainConfig, TrainConfig, parse
from slimrec.errors import ConfigError
from slimrec.gates import EFFECT
from slimrec.plugins import BACKBONES, GATES
from slimrec.registry import brought
from slimrec.stages import pretrain
from slimrec.track import Tracker
from tests.small import ingest_rows

ROOT = Path(__file__).parents[1]
SAID = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHOD, METHOD_LINE, NETWORK, NETWORK_LINE = re.findall(r"^```python\n(.*?)^```", SAID, re.MULTILINE | re.DOTALL)
ENTRY_POINTS = re.search(r"^```toml\n(.*?)^```", SAID, re.MULTILINE | re.DOTALL)[1]


def distribution(folder: Path, name: str = "our-ctr", package: str = "our_ctr", **called: str) -> Path:
    """An installed distribution as pip leaves it: the code of CONTRIBUTING, and its entry points, `called` otherwise."""
    code, info = folder / package, folder / f"{package}-1.0.dist-info"
    for each in (code, info):
        each.mkdir(parents=True)
    (code / "__init__.py").write_text('"""Ours."""\n', encoding="utf-8")
    (code / "spread.py").write_text(METHOD, encoding="utf-8")
    (code / "linear.py").write_text(NETWORK, encoding="utf-8")
    points = re.sub(r'^\[project\.entry-points\."(.*)"\]$', r"[\1]", ENTRY_POINTS, flags=re.MULTILINE)
    for old, new in called.items():
        points = re.sub(rf"^{old} = ", f"{new} = ", points, flags=re.MULTILINE)
    points = points.replace('"', "").replace("our_ctr", package)
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "top_level.txt").write_text(f"{package}\n", encoding="utf-8")
    return folder


def forget() -> None:
    """Makes both families look again at what is installed."""
    for family in (GATES, BACKBONES):
        for kept in ("table", "_places"):
            family.__dict__.pop(kept, None)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a folder of distributions onto the path, for the time of a test."""

    def put(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        forget()

    yield put
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("our_ctr", "their_ctr")]:
        del sys.modules[name]


def test_a_recipe_names_what_a_distribution_brings_as_it_names_ours(tmp_path, installed):
    recipe = {"method": "spread", "options": {"least": 0.2}, "model": {"backbone": "linear"}}
    with pytest.raises(ConfigError, match="no method 'spread'|no backbone 'linear'"):
        parse(PretrainConfig, recipe)
    installed(distribution(tmp_path))
    assert parse(PretrainConfig, recipe).model.backbone == "linear"
    assert GATES.load("spread").__module__ == "our_ctr.spread"
    assert GATES.options("spread") == {"least": "0.1"}
    with pytest.raises(ConfigError, match="method 'spread' has no option 'lest'.*least"):
        parse(PretrainConfig, {**recipe, "options": {"lest": 0.2}})
    with pytest.raises(ConfigError, match="no method 'sprad'.*spread"):
        parse(PretrainConfig, {**recipe, "method": "sprad"})


def test_a_name_that_stands_for_two_things_is_refused_and_both_are_named(tmp_path, installed):
    installed(distribution(tmp_path / "first"))
    installed(distribution(tmp_path / "second", "their-ctr", "their_ctr"))
    with pytest.raises(
        ConfigError, match=r"'spread' is given twice, as our_ctr\.spread.* by our-ctr and their_ctr\.spread"
    ):
        GATES.check("spread", {})
    GATES.check("none", {})
    GATES.check("our_ctr.spread:SpreadGate", {"least": 0.2})


def test_nobody_takes_the_name_of_one_of_ours(tmp_path, installed):
    installed(distribution(tmp_path, linear="mlp"))
    with pytest.raises(
        ConfigError, match=r"'mlp' is given twice, as slimrec\.backbones\.mlp:MLP by slimrec and our_ctr.* by our-ctr"
    ):
        parse(ModelConfig, {"backbone": "mlp"})
    assert parse(PretrainConfig, {"method": "spread", "model": {"backbone": "our_ctr.linear:Linear"}})


def test_the_same_distribution_found_twice_is_one(tmp_path, installed):
    for name in ("first", "second"):
        installed(distribution(tmp_path / name))
    assert GATES.table["spread"] == "our_ctr.spread:SpreadGate"


def test_a_plain_module_by_an_entry_point_becomes_a_network(tmp_path, installed):
    folder = distribution(tmp_path)
    plain = "from torch import nn\n\n\nclass Linear(nn.Linear):\n    def __init__(self, width):\n        super().__init__(width, 1)\n"
    (folder / "our_ctr" / "linear.py").write_text(plain, encoding="utf-8")
    installed(folder)
    import test_contract

    blocks = test_contract.build(test_contract.mixed_schema(), ModelConfig(), 0).blocks
    network = BACKBONES.create("linear", blocks)
    x = torch.rand(4, network.width)
    assert torch.equal(network(x), network.module(x).squeeze(1))


def test_an_entry_point_to_nothing_is_refused_by_name(tmp_path, installed):
    folder = distribution(tmp_path)
    (folder / "our_ctr" / "spread.py").unlink()
    installed(folder)
    with pytest.raises(ConfigError, match="method 'spread': no module 'our_ctr.spread'"):
        GATES.check("spread", {})
    GATES.check("none", {})


@pytest.mark.parametrize(
    ("backbone", "method", "packages"),
    [("mlp", "leap", []), ("linear", "leap", ["our-ctr"]), ("mlp", "spread", ["our-ctr"])],
)
def test_a_registered_model_asks_for_the_distribution_that_its_parts_come_from(
    tmp_path, installed, backbone, method, packages
):
    installed(distribution(tmp_path))
    write_json(tmp_path / "model.json", {"config": {"backbone": backbone}, "gate": {"method": method}})
    assert [brought.package(top) for top in brought.from_outside(tmp_path)] == packages


@pytest.mark.battery
def test_the_contract_battery_covers_one_file_and_one_line_and_what_a_distribution_brings(tmp_path):
    """In a copy of the library, so that the line can be added; the distribution lies beside it, under other names."""
    shutil.copytree(ROOT / "slimrec", tmp_path / "slimrec", ignore=shutil.ignore_patterns("__pycache__"))
    for room, file, source, line in (
        ("gates", "spread.py", METHOD, METHOD_LINE),
        ("backbones", "linear.py", NETWORK, NETWORK_LINE),
    ):
        (tmp_path / "slimrec" / room / file).write_text(source, encoding="utf-8")
        table = tmp_path / "slimrec" / room / "__init__.py"
        table.write_text(
            table.read_text(encoding="utf-8").replace("TABLE = {\n", f"TABLE = {{\n{line}"), encoding="utf-8"
        )
    distribution(tmp_path, spread="far_spread", linear="far_linear")
    shutil.copy(ROOT / "tests" / "test_contract.py", tmp_path)
    words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-k", "spread or linear"]
    done = subprocess.run(
        [sys.executable, *words, "test_contract.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for pairing in ("spread-mlp", "far_spread-deepfm", "leap-linear", "far_spread-far_linear"):
        assert re.search(rf"affine_map.*\[{pairing}\] PASSED", done.stdout), pairing


IDLE = [  # options that do nothing beside the others, and where they do something
    ("leap", {"learning_rate": 0.01}, "`learning_rate` is for gates that learn within the training"),
    ("leap", {"reservoir": 16384, "least": 0.001}, "`reservoir` is for gates that learn"),
    ("leap", {"alpha": 0.001, "gap": True}, "`gap` is for the path"),
    ("leap", {"stream": "train", "least": 0.01}, "`least` is for the path"),
    ("leap", {"alpha": 0.001, "fs_weight": 0.1}, "`fs_weight` is for `reference: code`"),
    ("leap", {"reference": "code", "alpha": 0.01}, "`alpha` is for `reference: paper`"),
    ("leap", {"reference": "code", "floor": 0.1}, "`floor` is for gates"),
    ("leap", {"alpha": 0.001, "stream": "train", "every": 8}, "`every` is for"),
    ("lpfs", {"variant": "lpfs", "tau": 3.0}, "`tau` is for `variant: lpfs"),
    ("adafs", {"share": 0.3}, "`share` is for `variant: hard`"),
    ("irazor", {"reference": "code", "lp_weight": "uniform"}, "`lp_weight` is for"),
    ("optfeature", {"grain": "field", "fall_back": False}, "`fall_back` is for"),
    ("autofield", {"stream": "train", "every": 5}, "`every` is for `stream: gate`"),
]


@pytest.mark.parametrize(("method", "options", "said"), IDLE)
def test_an_option_that_does_nothing_beside_the_others_is_named_and_as_much_as_by_default_is_no_wish(
    method, options, said
):
    backbone = "deepfm" if GATES.says(method, "weighs_pairs") else "mlp"
    parse(PretrainConfig, {"method": method, "model": {"backbone": backbone}, "options": options})
    (remark,) = GATES.idle(method, options)
    assert re.match(f"method '{method}': {said}.*does nothing here$", remark)
    for given in options:
        assert GATES.idle(method, {given: ast.literal_eval(GATES.options(method)[given])}) == []


def test_a_search_warns_of_an_option_that_does_nothing(tmp_path, capsys):
    ingest_rows(tmp_path, rows=300, gate=0.2)
    train = TrainConfig(epochs=1, batch_size=64, threads=1)
    config = PretrainConfig(method="leap", options={"warmup": 0.3}, model=ModelConfig(embedding_dim=2), train=train)
    pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    assert "slimrec: warning: method 'leap': `warmup` is for gates that learn" in capsys.readouterr().out


def test_what_is_said_to_have_an_effect_only_beside_others_is_an_option_of_its_method():
    assert all(set(effects) <= set(GATES.options(method)) for method, effects in EFFECT.items())
