"""What a cluster is told about each step: sizes, GPU nodes, volumes, secrets, retries, images, in the compiled YAML."""

import re

import pytest
import yaml
from slimrec.components import IMAGE
from slimrec.pipelines import cluster
from slimrec.pipelines.__main__ import main
from slimrec.pipelines.audit import audit
from slimrec.pipelines.containers import told
from slimrec.pipelines.sizes import PRESETS

from slimrec.artifacts import codebase
from slimrec.config import Recipe, parse
from slimrec.errors import ConfigError
from slimrec.stages import INGEST_IN_PARTS

DIGEST = f"registry.example/slimrec@sha256:{'a' * 64}"
STEPS = set(cluster.KIND) - set(INGEST_IN_PARTS)  # those are in tests/test_ingest_parts.py
TRAINING = {"pretrain", "baseline", "finetune"}


def compiled(folder, preset, recipe=None) -> tuple[dict, dict]:
    """Pipeline spec and Kubernetes settings of a preset."""
    path = folder / f"{preset}.yaml"
    cluster.write(path, recipe, preset, allow_tag=True)
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    return {name: compiled(folder, name) for name in PRESETS}


def tasks_of(spec: dict) -> dict[str, tuple[dict, str]]:
    """Name of each step -> its task and the label of its executor."""
    found = {}
    for graph in (spec["root"], *spec["components"].values()):
        for task in graph.get("dag", {}).get("tasks", {}).values():
            label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            found |= {task["taskInfo"]["name"]: (task, label)} if label else {}
    return found


def pods(compiled_preset) -> dict[str, tuple[dict, dict]]:
    """Name of each step -> its container and its Kubernetes settings."""
    spec, settings = compiled_preset
    executors = spec["deploymentSpec"]["executors"]
    return {name: (executors[label]["container"], settings[label]) for name, (_, label) in tasks_of(spec).items()}


def test_in_containers_too_only_the_steps_that_sign_are_told_the_key(presets):
    environment = {"SLIMREC_SIGNING_KEY": "secret", "MLFLOW_TRACKING_URI": "sqlite:///x"}
    commands = {name: container["command"] + container["args"] for name, (container, _) in pods(presets["S"]).items()}
    knowing = {name for name, words in commands.items() if "SLIMREC_SIGNING_KEY" in told(words, environment)}
    assert knowing == {"register", "refuse"}
    assert all("MLFLOW_TRACKING_URI" in told(words, environment) for words in commands.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_step_has_requests_and_limits(presets, preset):
    found = pods(presets[preset])
    assert set(found) == STEPS
    for name, (container, _) in found.items():
        told = container["resources"]
        assert {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(
            told
        ), name
        assert told["resourceMemoryRequest"] == told["resourceMemoryLimit"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_starts_as_many_threads_as_its_limit_of_processors_and_not_as_many_as_the_node_has(presets, preset):
    for name, (container, _) in pods(presets[preset]).items():
        told = {each["name"]: each["value"] for each in container["env"]}
        assert int(told["OMP_NUM_THREADS"]) == float(container["resources"]["resourceCpuLimit"]), name


@pytest.mark.parametrize(("preset", "gpus"), [("M", "1"), ("L", "8")])
def test_training_and_nothing_else_goes_to_gpu_nodes(presets, preset, gpus):
    for name, (container, settings) in pods(presets[preset]).items():
        accelerator = container["resources"].get("accelerator")
        if name in TRAINING:
            assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", gpus)
            assert settings["nodeSelector"] == {"labels": {"nvidia.com/gpu.present": "true"}}
            assert settings["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
            (shm,) = [mount for mount in settings["emptyDirMounts"] if mount["mountPath"] == "/dev/shm"]
            assert shm["medium"] == "Memory" and re.fullmatch(r"\d+Gi", shm["sizeLimit"])
        else:
            assert accelerator is None and not {"nodeSelector", "tolerations"} & set(settings), name


def test_the_small_preset_asks_for_no_gpu(presets):
    for container, settings in pods(presets["S"]).values():
        assert "accelerator" not in container["resources"] and "nodeSelector" not in settings


def test_every_step_finds_workspace_secrets_its_audit_and_a_place_to_write_and_runs_as_nobody(presets):
    for name, (_, settings) in pods(presets["M"]).items():
        (claim,) = settings["pvcMount"]
        assert (claim["constant"], claim["mountPath"]) == ("slimrec-workspace", "/workspace")
        assert {"volumeName": "tmp", "mountPath": "/tmp"} in settings["emptyDirMounts"]
        assert settings["fieldPathAsEnv"] == [
            {"name": "SLIMREC_AUDIT", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert settings["securityContext"] == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
        secrets = {secret["secretName"]: secret for secret in settings["secretAsEnv"]}
        given = {key: [pair["envVar"] for pair in secret["keyToEnv"]] for key, secret in secrets.items()}
        signs = name in ("register", "refuse")
        assert given.pop("slimrec-webhook", None) == (["SLIMREC_WEBHOOK"] if name == "notify" else None)
        assert given.pop("slimrec-signing", None) == (["SLIMREC_SIGNING_KEY"] if signs else None)
        assert given == {
            "slimrec-object-store": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"],
            "slimrec-mlflow": ["MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"],
        }
        optional = ["slimrec-webhook"] * (name == "notify") + ["slimrec-signing"] * signs
        assert [key for key, secret in secrets.items() if secret["optional"]] == optional


def test_every_step_is_told_what_its_pipeline_was_compiled_with_and_in_which_image_it_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "GPU_IMAGE", "slimrec-gpu:0.1.0")
    for container, _ in pods(compiled(tmp_path, "M")).values():
        told = {each["name"]: each["value"] for each in container["env"]}
        assert told["SLIMREC_COMPILED"] == f"{codebase.code()} {container['image']}"


def test_every_step_but_the_last_word_is_tried_again_for_as_long_as_a_training_may_take(presets):
    spec, _ = presets["L"]
    for name, (task, _) in tasks_of(spec).items():
        if name == "notify":
            assert "retryPolicy" not in task
        else:
            assert task["retryPolicy"] == {
                "maxRetryCount": 4,
                "backoffDuration": "15s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": f"{7 * 24 * 3600}s",
            }


def test_what_a_cluster_is_told_does_not_reach_the_audit_on_this_machine(presets):
    executors = audit.pipeline_spec.deployment_spec["executors"]
    assert not [label for label in executors if "resources" in executors[label]["container"]]
    assert not audit.platform_spec.platforms


def test_gpu_steps_run_in_the_gpu_image_and_no_image_is_latest(presets, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "GPU_IMAGE", "slimrec-gpu:0.1.0")
    for name, (container, _) in pods(compiled(tmp_path, "M")).items():
        assert container["image"] == ("slimrec-gpu:0.1.0" if name in TRAINING else IMAGE)
    for spec, _ in presets.values():
        images = [executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()]
        assert not [image for image in images if image.endswith(":latest") or not re.search("[:@]", image)]


@pytest.mark.parametrize(("image", "gpu_image", "refused"), [("a/b:1", DIGEST, "a/b:1"), (DIGEST, "a/b:2", "a/b:2")])
def test_a_cluster_takes_images_by_digest(tmp_path, monkeypatch, image, gpu_image, refused):
    monkeypatch.setattr(cluster, "IMAGE", image)
    monkeypatch.setattr(cluster, "GPU_IMAGE", gpu_image)
    with pytest.raises(ConfigError, match=refused):
        cluster.write(tmp_path / "a.yaml", None, "M")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_pod_bears_the_name_of_its_step(presets, preset):
    for name, (_, settings) in pods(presets[preset]).items():
        told = {"app.kubernetes.io/part-of": "slimrec", "app.kubernetes.io/component": name}
        assert settings["podMetadata"] == {"labels": told}


def test_sizes_of_a_preset_are_raised_and_lowered_by_hand(tmp_path, presets):
    path = tmp_path / "a.yaml"
    by_hand = ["train.memory=16Gi", "train.cpu=1500m", "data.cpu=2:3", "model.gpus=1"]
    cluster.write(path, None, "S", allow_tag=True, by_hand=by_hand)
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    changed = pods((spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]))
    told = {name: container["resources"] for name, (container, _) in changed.items()}
    assert {told[name]["resourceMemoryLimit"] for name in TRAINING} == {"16Gi"}
    assert (told["pretrain"]["resourceCpuRequest"], told["pretrain"]["resourceCpuLimit"]) == ("1500m", "1500m")
    assert (told["ingest"]["resourceCpuRequest"], told["ingest"]["resourceCpuLimit"]) == ("2", "3")
    assert told["prune"]["accelerator"]["resourceCount"] == "1"
    threads = {each["name"]: each["value"] for each in changed["pretrain"][0]["env"]}["OMP_NUM_THREADS"]
    assert threads == "1"
    before = {name: container["resources"] for name, (container, _) in pods(presets["S"]).items()}
    assert told["notify"] == before["notify"] and told["ingest"]["resourceMemoryLimit"] == "4Gi"


@pytest.mark.parametrize(
    ("by_hand", "words"),
    [
        ("train.memory", "give KIND.WHAT=AMOUNT"),
        ("pretrain.memory=1Gi", "KIND one of light, data, model, train"),
        ("train.ram=1Gi", "WHAT one of cpu, memory, gpus, shared_memory"),
        ("train.memory=16", "bytes with a unit, such as 16Gi"),
        ("train.memory=0Gi", "'0Gi' is no amount of memory"),
        ("train.cpu=8:2", "'8:2' is no amount of cpu"),
        ("train.cpu=1:2:3", "is no amount of cpu"),
        ("train.gpus=-1", "a number such as 1"),
        ("train.memory=8Gi", "shared_memory 8Gi of memory 8Gi"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_what_can(tmp_path, by_hand, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        cluster.write(tmp_path / "a.yaml", None, "M", allow_tag=True, by_hand=[by_hand])
    assert not list(tmp_path.iterdir())


def test_a_preset_there_is_not_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no preset 'XL'"):
        cluster.write(tmp_path / "a.yaml", None, "XL", allow_tag=True)


def test_the_file_is_yaml_because_what_a_cluster_is_told_fits_no_json(tmp_path, capsys):
    with pytest.raises(SystemExit, match="20"):
        main(["compile", "--output", str(tmp_path / "audit.json"), "--allow-tag"])
    assert "written as .yaml" in capsys.readouterr().err


def test_a_recipe_becomes_the_defaults_that_people_see(tmp_path, presets):
    recipe = parse(Recipe, {"ingest": {"source": "planted:rows=10,seed=0"}, "register": {"name": "mine"}})
    spec, _ = compiled(tmp_path, "S", recipe)
    told = spec["root"]["inputDefinitions"]["parameters"]
    assert told["recipe"]["defaultValue"] == {"ingest": {"source": recipe.ingest.source}, "register": {"name": "mine"}}
    assert "defaultValue" not in presets["S"][0]["root"]["inputDefinitions"]["parameters"]["recipe"]


def test_every_step_is_told_the_workspace_which_is_no_choice(presets):
    spec, _ = presets["S"]
    for name, (task, _) in tasks_of(spec).items():
        assert task["inputs"]["parameters"]["workspace"] == {"runtimeValue": {"constant": "/workspace"}}, name
    assert "workspace" not in spec["root"]["inputDefinitions"]["parameters"]
