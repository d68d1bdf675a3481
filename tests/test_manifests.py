"""What kustomize makes of manifests/: valid objects, restricted pods, no secret, no more rights than needed."""

import copy
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models
from slimrec.pipelines.images import require_digest

ROOT = Path(__file__).parents[1]
MANIFESTS = ROOT / "manifests"
OVERLAYS = ("local", "gpu", "distributed")
KUBERNETES = ("1.30", "1.36")  # the oldest and the newest that an object must suit
SECRETS = {
    "slimrec-object-store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"},
    "slimrec-mlflow": {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"},
    "slimrec-mlflow-server": {"PGUSER", "PGPASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"},
    "slimrec-webhook": {"SLIMREC_WEBHOOK"},
}


def kustomize(folder: Path) -> list[dict]:
    """The objects that a folder stands for, by kustomize or by the one in kubectl."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return list(yaml.safe_load_all(done.stdout))
    pytest.skip("neither kustomize nor kubectl is installed")


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request):
    return kustomize(MANIFESTS / "overlays" / request.param)


@pytest.fixture(scope="module")
def distributed():
    return kustomize(MANIFESTS / "overlays" / "distributed")


def of(objects: list[dict], kind: str) -> list[dict]:
    return [each for each in objects if each["kind"] == kind]


def pods(objects: list[dict]) -> dict[str, dict]:
    """Pod templates by the name of what makes them: metadata and spec."""
    found = {each["metadata"]["name"]: each["spec"]["template"] for each in objects if each["kind"] in WORKLOADS}
    for runtime in of(objects, "TrainingRuntime"):
        for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
            found[f"{runtime['metadata']['name']}/{job['name']}"] = job["template"]["spec"]["template"]
    return found


WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


def check(thing: dict) -> None:
    """Against Kubernetes' own schemas, a kind of Kubeflow Trainer against its SDK. An unknown kind or key is an error."""
    if thing["apiVersion"].startswith("trainer.kubeflow.org/"):
        model = getattr(models, f"TrainerV1alpha1{thing['kind']}")
        assert model.from_dict(copy.deepcopy(thing)).to_dict() == thing, "the model knows a key less"
        for name, template in pods([thing]).items():
            check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]})
    else:
        for version in KUBERNETES:
            kubernetes_validate.validate(thing, version, strict=True)


def test_every_object_is_valid(objects):
    for thing in objects:
        check(thing)


FILES = [path for path in sorted(MANIFESTS.rglob("*.yaml")) if path.name != "kustomization.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(MANIFESTS).as_posix())
def test_every_file_holds_valid_objects_before_kustomize_touches_it(path):
    for thing in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        check(thing)


@pytest.mark.parametrize("path", [("spec", "replicasss"), ("spec", "template", "spec", "contaners")])
def test_a_misspelt_key_is_not_valid(distributed, path):
    broken = copy.deepcopy(of(distributed, "Deployment")[0])
    owner = broken
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken)


def test_an_unknown_kind_or_key_of_the_trainer_is_not_valid(distributed):
    runtime = of(distributed, "TrainingRuntime")[0]
    with pytest.raises(AssertionError, match="a key less"):
        check({**runtime, "spec": {**runtime["spec"], "mlPolice": {}}})
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check({"apiVersion": "example.org/v1", "kind": "Deploiment", "metadata": {"name": "x"}})


def test_every_file_is_used_and_every_object_lies_in_the_one_namespace(objects):
    for kustomization in MANIFESTS.rglob("kustomization.yaml"):
        listed = yaml.safe_load(kustomization.read_text(encoding="utf-8")).get("resources", [])
        beside = {path.name for path in kustomization.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert beside == {name for name in listed if name.endswith(".yaml")}, kustomization
    for thing in objects:
        name = thing["metadata"]["name"] if thing["kind"] == "Namespace" else thing["metadata"]["namespace"]
        assert name == "slimrec"
        assert thing["metadata"]["labels"]["app.kubernetes.io/part-of"] == "slimrec"


def violations(spec: dict) -> list[str]:
    """What the restricted pod security standard, and we beyond it, have against a pod."""
    pod, found = spec.get("securityContext", {}), []
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        found += [key] if spec.get(key) else []
    allowed = {"name", "configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim", "csi", "downwardAPI"}
    found += [f"volume {each['name']}" for each in spec.get("volumes", []) if not set(each) <= allowed]
    found += [] if spec.get("automountServiceAccountToken") is False else ["automountServiceAccountToken"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        own = {**pod, **container.get("securityContext", {})}
        found += [] if own.get("runAsNonRoot") is True and own.get("runAsUser", 0) > 0 else ["runAsNonRoot"]
        found += [] if own.get("seccompProfile", {}).get("type") == "RuntimeDefault" else ["seccompProfile"]
        found += [] if own.get("allowPrivilegeEscalation") is False else ["allowPrivilegeEscalation"]
        found += ["privileged"] if own.get("privileged") else []
        capabilities = own.get("capabilities", {})
        found += [] if capabilities.get("drop") == ["ALL"] and not capabilities.get("add") else ["capabilities"]
        found += [] if own.get("readOnlyRootFilesystem") is True else ["readOnlyRootFilesystem"]
        mounted = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
        found += [] if "/tmp" in mounted else ["/tmp"]
        found += ["hostPort"] if any("hostPort" in port for port in container.get("ports", [])) else []
    return found


def test_every_pod_passes_the_restricted_standard_which_the_namespace_enforces(objects):
    assert of(objects, "Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {name: violations(template["spec"]) for name, template in pods(objects).items()} == {
        name: [] for name in pods(objects)
    }


@pytest.mark.parametrize(
    ("where", "value", "names"),
    [
        ("runAsNonRoot", False, ["runAsNonRoot"]),
        ("runAsUser", 0, ["runAsNonRoot"]),
        ("seccompProfile", {"type": "Unconfined"}, ["seccompProfile"]),
        ("capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}, ["capabilities"]),
        ("allowPrivilegeEscalation", True, ["allowPrivilegeEscalation"]),
        ("readOnlyRootFilesystem", False, ["readOnlyRootFilesystem"]),
        ("privileged", True, ["privileged"]),
    ],
)
def test_the_check_sees_each_way_to_leave_the_standard(distributed, where, value, names):
    spec = copy.deepcopy(pods(distributed)["slimrec-mlflow"]["spec"])
    spec["containers"][0]["securityContext"][where] = value
    assert violations(spec) == names
    del spec["automountServiceAccountToken"]
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert violations(spec) == ["volume host", "automountServiceAccountToken", *names]


def test_every_image_is_named_by_digest(objects):
    for template in pods(objects).values():
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            assert require_digest(container["image"], allow_tag=False)


def test_git_holds_no_secret_and_an_example_of_each(objects, tmp_path):
    assert not of(objects, "Secret")
    tracked = subprocess.run(
        ["git", "ls-files", "--others", "--cached", "--exclude-standard", "manifests"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert not [name for name in tracked.stdout.decode().splitlines() if name.endswith(".env")]
    for example in (MANIFESTS / "secrets").glob("*.example"):
        lines = [line for line in example.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert {line.partition("=")[2] for line in lines} <= {"", "slimrec", "http://slimrec-mlflow.slimrec:5000"}
        shutil.copy(example, tmp_path / example.stem)
    shutil.copy(MANIFESTS / "secrets" / "kustomization.yaml", tmp_path)
    made = kustomize(tmp_path)
    assert {each["metadata"]["name"]: set(each["data"]) for each in made} == SECRETS
    for secret in made:
        check(secret)


def references(template: dict) -> set[tuple[str, str, str | None]]:
    """Kind, name and key of everything that a pod takes its settings from."""
    spec, found = template["spec"], set()
    found.add(("ServiceAccount", spec["serviceAccountName"], None))
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            found |= {("ConfigMap", volume["configMap"]["name"], item["key"]) for item in volume["configMap"]["items"]}
        if "persistentVolumeClaim" in volume:
            found.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None))
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        found |= {("Secret", each["secretRef"]["name"], None) for each in container.get("envFrom", [])}
        for source in [variable["valueFrom"] for variable in container.get("env", []) if "valueFrom" in variable]:
            kind, key = ("Secret", "secretKeyRef") if "secretKeyRef" in source else ("ConfigMap", "configMapKeyRef")
            found.add((kind, source[key]["name"], source[key]["key"]))
    return found


def test_whatever_a_pod_refers_to_is_there(objects):
    there = {(each["kind"], each["metadata"]["name"], None) for each in objects}
    there |= {("ConfigMap", each["metadata"]["name"], key) for each in of(objects, "ConfigMap") for key in each["data"]}
    there |= {("Secret", name, key) for name, keys in SECRETS.items() for key in (None, *keys)}
    for name, template in pods(objects).items():
        assert not references(template) - there, name


def test_a_role_names_what_it_allows_and_reads_one_secret_only(objects):
    for role in of(objects, "Role"):
        for rule in role["rules"]:
            assert not {"*"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if {"secrets", "configmaps"} & {*rule["resources"]}:
                assert rule["verbs"] == ["get"] and rule["resourceNames"] in (
                    ["mlpipeline-minio-artifact"],
                    ["kfp-launcher"],
                )
    assert {subject["name"] for each in of(objects, "RoleBinding") for subject in each["subjects"]} == {
        "slimrec-pipeline"
    }
    assert not of(objects, "ClusterRole") and not of(objects, "ClusterRoleBinding")


def test_only_the_distributed_overlay_may_create_training_jobs(objects):
    allowed = [rule for role in of(objects, "Role") for rule in role["rules"] if "trainjobs" in rule["resources"]]
    assert bool(allowed) == bool(of(objects, "TrainingRuntime"))
    assert all(set(rule["verbs"]) == {"create", "get", "delete"} for rule in allowed)


def amount(quantity: str) -> int:
    """Bytes of memory."""
    units = {"Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def test_what_asks_whether_postgresql_is_there_names_its_user_and_database(objects):
    """Else each question stands in its log as a role that does not exist."""
    (container,) = pods(objects)["slimrec-postgresql"]["spec"]["containers"]
    given = {each["name"]: each.get("value") or each["valueFrom"]["secretKeyRef"] for each in container["env"]}
    assert given["PGUSER"] == given["POSTGRES_USER"] and given["PGDATABASE"] == given["POSTGRES_DB"]


def test_the_job_of_the_workspace_can_be_waited_for_at_any_time(objects):
    (job,) = of(objects, "Job")
    assert "ttlSecondsAfterFinished" not in job["spec"]


def test_a_busy_node_has_time_to_answer_a_probe_and_ten_minutes_to_start(objects):
    (container,) = pods(objects)["slimrec-mlflow"]["spec"]["containers"]
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 600
    for name in ("slimrec-mlflow", "slimrec-postgresql"):
        (container,) = pods(objects)[name]["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe].get("timeoutSeconds", 1) >= 5, f"{name}: {probe}"


def test_mlflow_is_given_the_memory_that_it_was_seen_to_use(objects):
    (container,) = pods(objects)["slimrec-mlflow"]["spec"]["containers"]
    assert amount(container["resources"]["requests"]["memory"]) > 591 * 2**20


def test_mlflow_answers_to_every_name_of_its_service(objects):
    (container,) = pods(objects)["slimrec-mlflow"]["spec"]["containers"]
    (hosts,) = (word.partition("=")[2].split(",") for word in container["args"] if word.startswith("--allowed-hosts="))
    for tail in ("", ".slimrec", ".slimrec.svc", ".slimrec.svc.cluster.local"):
        assert f"slimrec-mlflow{tail}:5000" in hosts
