"""A network of one's own is judged by the code it was registered with, or not at all; code that is not that never runs."""

import shutil
import sys
from importlib import import_module, invalidate_caches
from pathlib import Path

import numpy as np
import pytest
import services
import small
from mlflow import MlflowClient

import slimrec
from slimrec import track
from slimrec.artifacts import digest, publish, verify, write_json
from slimrec.config import EvaluateConfig, ModelConfig, RegisterConfig
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.errors import ConfigError, ConflictError, InputError, SecurityError, TransientError
from slimrec.model import build
from slimrec.model.files import load_model, save_model
from slimrec.model.scoring import score
from slimrec.registry import apart, brought, promotion, registration, versions
from slimrec.registry.champion import Champion, judge, read_scores, reigning

NETWORK = """
import os
from pathlib import Path
from torch import nn

if "RAN" in os.environ:
    Path(os.environ["RAN"]).touch()


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, x):
        return SIGN * self.layer(x)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small.make(tmp_path_factory.mktemp("world"), rows=2000)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with services.mlflow_on_sqlite(tmp_path_factory.mktemp("mlflow")) as folder:
        yield folder


@pytest.fixture(scope="module")
def registered(world, store, tmp_path_factory):
    """The champion of `shopnet`, registered with a network that lies on the path: its logits, and that network's file."""
    name, path = "shopnet", tmp_path_factory.mktemp("path")
    file = path / f"{name}.py"
    file.write_text(NETWORK.replace("SIGN", "1.0"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        model = build(load_model(world.slim).schema, ModelConfig(backbone=f"{name}:Net"), seed=1)
        with publish(path / "slim", "slim") as scratch:
            save_model(model, scratch, Encoder.load(world.slim))
        tried, run = [], apart.run
        patch.setattr(apart, "run", lambda *words: (tried.append(words), run(*words)))
        with track.run("register", RegisterConfig(name=name)) as tracker:
            decision = small.decision(name=name)
            registration.register(name, path / "slim", path / "slim", decision, "automatic", tracker.run_id)
        assert [words[:2] for words in tried][:1] == [((), versions.check_round_trip)]  # by what was stored, and apart
        test = Dataset.open(world.dataset, fields=model.schema.names).split("test")
        yield name, file, score(model, test), test


@pytest.fixture
def shop(registered, tmp_path):
    """The same with a way to change the file; what a test does to it and to the registry is undone."""
    name, file, logits, test = registered

    def edit(sign: str) -> None:
        file.write_text(NETWORK.replace("SIGN", sign), encoding="utf-8")
        sys.modules.pop(name, None)

    edit("1.0")
    stored = stored_code(name).parents[1]
    before = shutil.copytree(stored, tmp_path / "before")
    yield name, edit, logits, test
    shutil.rmtree(stored)
    shutil.copytree(before, stored)
    MlflowClient().set_registered_model_alias(name, "champion", "1")


def judged(name: str, world, test, slim: np.ndarray, folder: Path) -> dict:
    return judge(EvaluateConfig(), reigning(name, folder), world.dataset, test, slim)


def stored_code(name: str) -> Path:
    where = MlflowClient().get_model_version_download_uri(name, "1").removeprefix("file://")
    return Path(where, "code", f"{name}.py")


def test_the_champion_is_judged_by_the_code_it_was_registered_with(shop, world, tmp_path):
    name, edit, logits, test = shop
    edit("-1.0")
    found = judged(name, world, test, logits, tmp_path / "copy")["auc"]
    assert abs(found["difference"]) < 1e-6 and abs(found["slim"] - 0.5) > 0.1  # far from what the other sign would give
    assert not list(stored_code(name).parents[1].rglob("*.pyc"))  # to try what is stored leaves it as it is


def test_code_that_is_not_what_was_registered_does_not_run(shop, world, tmp_path, monkeypatch):
    name, edit, logits, test = shop
    edit("-1.0")
    code = stored_code(name)
    code.write_text(NETWORK.replace("SIGN", "2.0"), encoding="utf-8")
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    found = judged(name, world, test, logits, tmp_path / "copy")
    assert found["verdict"] == "inconclusive" and found["auc"] is None
    assert "brings other code" in found["reason"] and "register the model again" in found["reason"]
    MlflowClient().delete_registered_model_alias(name, "champion")
    with pytest.raises(SecurityError, match="than it was registered with"):
        promotion.promote(name, "1", why="try", force=True)
    assert not (tmp_path / "ran").exists()


def test_a_version_with_code_that_scores_otherwise_through_mlflow_is_not_promoted(shop):
    name, *_ = shop
    served = stored_code(name).parents[1] / "pyfunc.py"
    text = served.read_text(encoding="utf-8")
    served.write_text(text.replace("DataFrame(found.", "DataFrame(2e-6 + found."), encoding="utf-8")
    MlflowClient().delete_registered_model_alias(name, "champion")
    with pytest.raises(ConflictError, match="scores otherwise"):
        promotion.promote(name, "1", why="try", force=True)
    assert name not in sys.modules  # it ran apart


def test_code_of_which_the_ledger_says_nothing_is_not_run(tmp_path):
    assert versions.require_code("shop", "1", tmp_path, None) == []
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").touch()
    with pytest.raises(SecurityError, match="brings code of its own .net.py., and the ledger does not say which"):
        versions.require_code("shop", "1", tmp_path, None)


def test_code_that_went_missing_is_not_what_was_registered(shop):
    name, *_ = shop
    stored_code(name).unlink()
    MlflowClient().delete_registered_model_alias(name, "champion")
    with pytest.raises(SecurityError, match="brings other code .no code. than it was registered with"):
        promotion.promote(name, "1", why="try", force=True)


def test_a_version_of_which_the_ledger_says_nothing_is_what_its_tag_says(shop, tmp_path):
    name, *_ = shop
    server = MlflowClient()
    said = server.get_model_version(name, "1").tags[versions.DIGEST]
    assert digest(versions.fetch(server, name, "1", tmp_path / "one", None)) == said
    server.delete_model_version_tag(name, "1", versions.DIGEST)
    try:
        with pytest.raises(SecurityError, match=f"holds {said[:16]}, registered was nothing: register the model again"):
            versions.fetch(server, name, "1", tmp_path / "two", None)
    finally:
        server.set_model_version_tag(name, "1", versions.DIGEST, said)


def test_a_network_that_is_not_on_the_path_cannot_go_along_with_its_model(tmp_path):
    write_json(tmp_path / "model.json", {"config": {"backbone": "gone_net:Net"}, "gate": None})
    with pytest.raises(ConfigError, match="needs the modules gone_net, which are not all on the Python path"):
        registration._own_code(tmp_path)


def test_a_module_smuggled_in_beside_the_network_does_not_run_either(shop, tmp_path, monkeypatch):
    name, *_ = shop
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    stored_code(name).with_name("tqdm.py").write_text("import os, pathlib\npathlib.Path(os.environ['RAN']).touch()\n")
    MlflowClient().delete_registered_model_alias(name, "champion")
    with pytest.raises(SecurityError, match="tqdm.py"):
        promotion.promote(name, "1", why="try", force=True)
    assert not (tmp_path / "ran").exists()


def test_a_process_apart_finds_the_code_that_it_is_given_and_neither_ours_nor_that_of_the_current_folder(
    tmp_path, monkeypatch
):
    here, ours, given = (tmp_path / name / "shopnet.py" for name in ("here", "ours", "given"))
    for file in (here, ours, given):
        file.parent.mkdir()
        file.touch()
    monkeypatch.chdir(here.parent)
    monkeypatch.setenv("PYTHONPATH", str(ours.parent))
    with pytest.raises(ConfigError, match="does not load by itself: No module named 'shopnet'; put all of it into one"):
        apart.run([], import_module, "shopnet")
    apart.run([given], import_module, "shopnet")
    package = given.parent / "shop_package"
    package.mkdir()
    (package / "__init__.py").touch()
    apart.run([given, package], import_module, "shop_package")


def test_a_process_apart_finds_the_library_first_and_then_what_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "tells_path.py").write_text(
        "import os, pathlib\ndef tell(file):\n    pathlib.Path(file).write_text(os.environ['PYTHONPATH'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    apart.run([tmp_path / "tells_path.py"], import_module("tells_path").tell, tmp_path / "told")
    library, given = (tmp_path / "told").read_text().split(":")
    assert Path(library) == Path(slimrec.__file__).parent.parent and Path(given) != tmp_path


def test_the_main_of_a_process_apart_says_on_stderr_what_went_wrong_and_ends_by_its_class(tmp_path, capsys):
    for words, code, said in (
        (("slimrec.artifacts", "verify", str(tmp_path)), 10, f"slimrec: no artifact at {tmp_path}: "),
        (("importlib", "import_module", "no_such_net"), 20, "slimrec: the network's code does not load by itself: "),
    ):
        with pytest.raises(SystemExit) as ended:
            apart.main(list(words))
        told = capsys.readouterr()
        assert ended.value.code == code and told.err.startswith(said) and told.out == ""
    apart.main(["importlib", "import_module", "json"])


def test_what_a_process_apart_met_last_is_raised_here(tmp_path):
    with pytest.raises(InputError) as here:
        verify(tmp_path / "none")
    with pytest.raises(InputError) as there:
        apart.run([], verify, tmp_path / "none")
    assert str(there.value) == str(here.value)
    (tmp_path / "talks.py").write_text("import sys\nprint('I load\\nstill', file=sys.stderr)\nimport no_such_part\n")
    with pytest.raises(ConfigError, match="no_such_part"):
        apart.run([tmp_path / "talks.py"], import_module, "talks")


def test_a_process_apart_that_dies_without_a_word_is_worth_another_try(tmp_path):
    (tmp_path / "dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(TransientError, match="^nothing was said$"):
        apart.run([tmp_path / "dies.py"], import_module, "dies")


def test_scores_that_a_process_apart_left_as_a_pickle_are_not_loaded(tmp_path):
    ran = tmp_path / "ran"

    class Foreign:
        def __reduce__(self):
            return Path.touch, (ran,)

    np.save(tmp_path / "logits.npy", np.array([Foreign()], dtype=object), allow_pickle=True)
    write_json(tmp_path / "strange.json", [])
    with pytest.raises(SecurityError, match="left no numbers: .*allow_pickle=False"):
        read_scores(tmp_path)
    assert not ran.exists()


def test_code_is_told_by_what_its_files_hold_and_where_they_lie(tmp_path):
    package = tmp_path / "one" / "net"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("a = 1\n")
    (package / "parts" / "layer.py").write_text("b = 2\n")
    same = Path(shutil.copytree(tmp_path / "one", tmp_path / "two")) / "net"
    (same / "__pycache__").mkdir()
    (same / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert brought.digest([package]) == brought.digest([same]) != "" == brought.digest([])
    (same / "parts" / "layer.py").rename(same / "layer.py")
    assert brought.digest([package]) != brought.digest([same])


@pytest.mark.battery
def test_a_network_of_a_package_is_wanted_in_its_release_by_whoever_serves_or_judges_it(
    world, store, tmp_path, monkeypatch
):
    def install(version: str) -> None:
        for old in tmp_path.glob("*.dist-info"):
            shutil.rmtree(old)
        about = tmp_path / f"ranknet-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ranknet\nVersion: {version}\n", encoding="utf-8")
        (about / "top_level.txt").write_text("ranknet\n", encoding="utf-8")
        invalidate_caches()

    (tmp_path / "ranknet.py").write_text(NETWORK.replace("SIGN", "1.0"), encoding="utf-8")
    install("1.5")
    monkeypatch.syspath_prepend(tmp_path)
    model = build(load_model(world.slim).schema, ModelConfig(backbone="ranknet:Net"), seed=1)
    with publish(tmp_path / "slim", "slim") as scratch:
        save_model(model, scratch, Encoder.load(world.slim))
    with track.run("register", RegisterConfig(name="packed")) as tracker:
        decision = small.decision(name="packed")
        registration.register("packed", tmp_path / "slim", tmp_path / "slim", decision, "automatic", tracker.run_id)
    test = Dataset.open(world.dataset, fields=model.schema.names).split("test")
    logits = score(model, test)
    champion = reigning("packed", tmp_path / "fetched")
    assert "ranknet==1.5" in (champion.files / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert abs(judge(EvaluateConfig(), champion, world.dataset, test, logits)["auc"]["difference"]) < 1e-6
    install("2.0")
    told = judge(EvaluateConfig(), champion, world.dataset, test, logits)
    assert told["verdict"] == "inconclusive"
    assert "it came with ranknet==1.5, installed here is ranknet==2.0: audit where that is installed" in told["reason"]


def test_where_a_module_lies_and_what_a_model_brings_beside_the_library(tmp_path, monkeypatch):
    (tmp_path / "net_package").mkdir()
    (tmp_path / "net_package" / "__init__.py").touch()
    (tmp_path / "net_file.py").touch()
    (tmp_path / "net_parts").mkdir()  # without __init__.py
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    found = brought.on_the_path(["net_file", "nowhere_net", "net_package", "net_parts"])
    assert found == [tmp_path / "net_file.py", tmp_path / "net_package", tmp_path / "net_parts"]
    for name in ("slimrec", "__pycache__", "net_package", "a_net"):
        (tmp_path / "code" / name).mkdir(parents=True)
    assert brought.stored(tmp_path) == [tmp_path / "code" / "a_net", tmp_path / "code" / "net_package"]


def test_a_champion_of_an_installed_package_is_judged_where_that_is_installed_in_its_release(
    world, tmp_path, monkeypatch
):
    (tmp_path / "ranknet.py").write_text(NETWORK.replace("SIGN", "1.0"), encoding="utf-8")
    (about := tmp_path / "ranknet-1.5.dist-info").mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ranknet\nVersion: 1.5\n", encoding="utf-8")
    (about / "top_level.txt").write_text("ranknet\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ranknet", raising=False)
    invalidate_caches()
    model = build(load_model(world.slim).schema, ModelConfig(backbone="ranknet:Net"), seed=1)
    with publish(tmp_path / "slim", "slim") as scratch:
        save_model(model, scratch, Encoder.load(world.slim))
    test = Dataset.open(world.dataset, fields=model.schema.names).split("test")
    champion = Champion("packed", "1", tmp_path / "slim", tmp_path, None, None)
    for release, judged in (("1.5", True), ("1.4", False)):
        (tmp_path / "requirements.txt").write_text(f"numpy==1\nranknet=={release}\n", encoding="utf-8")
        found = judge(EvaluateConfig(), champion, world.dataset, test, score(model, test))
        assert (found["auc"] is not None) is judged
    assert "it came with ranknet==1.4, installed here is ranknet==1.5: audit where that is" in found["reason"]
    assert registration._own_code(tmp_path / "slim") == []


def test_a_network_from_a_package_needs_the_release_that_it_came_with(tmp_path):
    here = f"numpy=={np.__version__}"
    for pinned, said in (
        (here, ""),
        ("numpy==0.1", f"it came with numpy==0.1, installed here is {here}"),
        ("numpy-financial==1.0", f"it came with another package, installed here is {here}"),
    ):
        (tmp_path / "requirements.txt").write_text(f"mlflow==3.0\n{pinned}\n", encoding="utf-8")
        assert brought.other_release(tmp_path, ["numpy"]) == said
    assert brought.other_release(tmp_path, []) == ""
    assert "the package of 'no_such_net', which is not installed here" in brought.other_release(
        tmp_path, ["no_such_net"]
    )
