"""What the pipeline on a cluster asks for is what manifests/ gives: names, keys, user, labels, and room in the quota."""

from fractions import Fraction

import pytest
from slimrec.pipelines import cluster
from slimrec.pipelines.client import SERVICE_ACCOUNT
from slimrec.pipelines.sizes import PRESETS
from test_manifests import MANIFESTS, SECRETS, kustomize, of, pods

UNITS = {"m": Fraction(1, 1000), "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def amount(quantity: str) -> Fraction:
    number = quantity.rstrip("mKMGTi")
    return Fraction(number) * UNITS[quantity[len(number) :]]


@pytest.fixture(scope="module")
def distributed():
    return kustomize(MANIFESTS / "overlays" / "distributed")


@pytest.fixture(scope="module")
def node(distributed):
    return pods(distributed)["slimrec-torch/node"]["spec"]


def names(objects: list[dict], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of(objects, kind)}


def test_the_account_the_claim_and_the_secrets_are_there(distributed):
    assert SERVICE_ACCOUNT in names(distributed, "ServiceAccount")
    assert cluster.WORKSPACE_CLAIM in names(distributed, "PersistentVolumeClaim")
    secret, key = cluster.WEBHOOK
    for name, keys in {**cluster.SECRETS, secret: (key,)}.items():
        assert set(keys) == SECRETS[name]


def test_a_node_of_a_training_is_set_up_as_a_step_is(distributed, node):
    mounts = {mount["mountPath"]: mount["name"] for mount in node["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in node["volumes"]}
    assert volumes[mounts[cluster.WORKSPACE]]["persistentVolumeClaim"]["claimName"] == cluster.WORKSPACE_CLAIM
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert {source["secretRef"]["name"] for source in node["containers"][0]["envFrom"]} == set(cluster.SECRETS)
    assert node["nodeSelector"] == dict([cluster.GPU_NODE])
    assert node["tolerations"] == [{"key": cluster.GPU, "operator": "Exists", "effect": "NoSchedule"}]
    assert node["serviceAccountName"] == SERVICE_ACCOUNT


def test_whoever_writes_to_the_workspace_is_of_its_group(distributed, node):
    job = pods(distributed)["slimrec-workspace"]["spec"]
    for spec in (job, node):
        security = spec["securityContext"]
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == cluster.USER


@pytest.mark.parametrize(
    ("overlay", "presets"), [("local", "S"), ("gpu", "SML"), ("distributed", "SML")], ids=lambda value: value
)
def test_search_and_baseline_of_a_preset_fit_into_the_quota_beside_the_rest(overlay, presets):
    objects = kustomize(MANIFESTS / "overlays" / overlay)
    hard = of(objects, "ResourceQuota")[0]["spec"]["hard"]
    side_by_side = 1 if overlay == "local" else 2  # on one machine they take turns
    for preset in presets:
        train = PRESETS[preset]["train"]
        asked = {
            "requests.memory": amount(train.memory) * side_by_side,
            "limits.memory": amount(train.memory) * side_by_side,
        }
        asked |= {
            "requests.cpu": amount(train.cpu[0]) * side_by_side,
            "requests.nvidia.com/gpu": train.gpus * side_by_side,
        }
        for thing in of(objects, "Deployment") + of(objects, "StatefulSet"):
            resources = thing["spec"]["template"]["spec"]["containers"][0]["resources"]
            for what in ("requests.cpu", "requests.memory", "limits.memory"):
                kind, unit = what.split(".")
                asked[what] += amount(resources[kind][unit]) * thing["spec"].get("replicas", 1)
        for what, sum_ in asked.items():
            assert sum_ <= amount(hard[what]), f"{overlay}, preset {preset}: {what}"


def test_the_claims_fit_into_the_quota(distributed):
    asked = sum(
        amount(claim["spec"]["resources"]["requests"]["storage"])
        for claim in [
            *of(distributed, "PersistentVolumeClaim"),
            *(claim for each in of(distributed, "StatefulSet") for claim in each["spec"]["volumeClaimTemplates"]),
        ]
    )
    assert asked <= amount(of(distributed, "ResourceQuota")[0]["spec"]["hard"]["requests.storage"])
