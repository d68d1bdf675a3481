"""Who reaches whom under the network policies of manifests/: judged pair by pair, as a cluster's network judges."""

import ipaddress
import re
from pathlib import Path

import pytest
import yaml
from test_manifests import kustomize, of, pods

OVERLAYS = Path(__file__).parents[1] / "manifests" / "overlays"
STEP = {"workflows.argoproj.io/workflow": "audit-x"}
NODE = {"jobset.sigs.k8s.io/jobset-name": "train-x"}
MLFLOW = {"app.kubernetes.io/name": "slimrec-mlflow"}
POSTGRESQL = {"app.kubernetes.io/name": "slimrec-postgresql"}
STRANGER = {"app": "notebook"}
HERE = {"kubernetes.io/metadata.name": "slimrec"}
KUBEFLOW = {"kubernetes.io/metadata.name": "kubeflow"}
DNS = {"kubernetes.io/metadata.name": "kube-system"}


@pytest.fixture(scope="module", params=["local", "gpu", "distributed"])
def policies(request):
    return of(kustomize(OVERLAYS / request.param), "NetworkPolicy")


@pytest.fixture(scope="module")
def distributed():
    return kustomize(OVERLAYS / "distributed")


def selects(selector: dict, labels: dict) -> bool:
    """Whether a label selector matches; an empty one matches all."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions", []):
        value, operator = labels.get(each["key"]), each["operator"]
        holds = {"Exists": value is not None, "NotIn": value not in each.get("values", [])}[operator]
        if not holds:
            return False
    return True


def is_peer(peer: dict, pod: dict | None, namespace: dict | None, address: str | None) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        if address is None or ipaddress.ip_address(address) not in ipaddress.ip_network(block["cidr"]):
            return False
        return not any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in block.get("except", []))
    if namespace is None:
        return False
    where = selects(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else namespace == HERE
    return where and selects(peer.get("podSelector", {}), pod or {})


def allowed(policies, direction, of_pod, port, pod=None, namespace=HERE, address=None) -> bool:
    """One side's verdict on a connection; without a policy for the pod, everything is allowed."""
    mine = [each["spec"] for each in policies if selects(each["spec"]["podSelector"], of_pod)]
    mine = [spec for spec in mine if direction.capitalize() in spec["policyTypes"]]
    rules = [rule for spec in mine for rule in spec.get(direction, [])]
    side = "from" if direction == "ingress" else "to"
    return not mine or any(
        any(is_peer(peer, pod, namespace, address) for peer in rule[side])
        and ("ports" not in rule or any(each["port"] == port for each in rule["ports"]))
        for rule in rules
    )


def connects(policies, source, target, port) -> bool:
    """Between two pods of the namespace both sides must agree."""
    leaves = allowed(policies, "egress", source, port, pod=target)
    return leaves and allowed(policies, "ingress", target, port, pod=source)


def reaches(policies, source, port, **where) -> bool:
    return allowed(policies, "egress", source, port, **{"namespace": None, **where})


def test_steps_reach_mlflow_and_mlflow_reaches_its_database(policies):
    assert connects(policies, STEP, MLFLOW, 5000)
    assert connects(policies, MLFLOW, POSTGRESQL, 5432)


def test_nobody_but_mlflow_reaches_the_database_which_reaches_nobody(policies):
    for source in (STEP, NODE, STRANGER, POSTGRESQL):
        assert not connects(policies, source, POSTGRESQL, 5432)
    for target in (STEP, MLFLOW, STRANGER):
        assert not connects(policies, POSTGRESQL, target, 5000)
    assert not reaches(policies, POSTGRESQL, 443, address="203.0.113.7")


def test_a_stranger_in_the_namespace_reaches_nothing_in_it(policies):
    for target in (MLFLOW, POSTGRESQL, STEP, NODE):
        assert not any(connects(policies, STRANGER, target, port) for port in (5000, 5432, 443))


def test_everybody_may_ask_for_names_and_nobody_for_the_machines_credentials(policies):
    for source in (STEP, NODE, MLFLOW, POSTGRESQL):
        assert reaches(policies, source, 53, namespace=DNS, pod={})
        for port in (80, 443):
            assert not reaches(policies, source, port, address="169.254.169.254")
            assert not reaches(policies, source, port, address="fd00:ec2::254")


def test_steps_reach_object_store_kubernetes_and_kubeflow_and_no_other_port(policies):
    assert reaches(policies, STEP, 443, address="203.0.113.7")
    assert reaches(policies, STEP, 6443, address="10.0.0.1")
    for port in (8887, 8888, 8080, 9000, 8333):
        assert reaches(policies, STEP, port, namespace=KUBEFLOW, pod={})
    for port in (22, 25, 80, 5432):
        assert not reaches(policies, STEP, port, address="203.0.113.7")
        assert not reaches(policies, STEP, port, namespace=KUBEFLOW, pod={})


def test_the_user_interface_may_ask_for_artifacts_and_for_nothing_else(policies):
    shown = {"app": "ml-pipeline-ui-artifact"}
    assert allowed(policies, "ingress", shown, 3000, pod={}, namespace=KUBEFLOW)
    assert not connects(policies, STEP, shown, 3000)
    for target in (MLFLOW, POSTGRESQL, STEP):
        assert not allowed(policies, "ingress", target, 3000, pod={}, namespace=KUBEFLOW)


def test_nodes_of_a_training_talk_on_any_port_and_only_where_there_are_some(policies):
    names = {each["metadata"]["name"] for each in policies}
    for port in (29500, 41234):
        assert connects(policies, NODE, NODE, port) == ("nodes" in names)
        assert not connects(policies, STEP, NODE, port)
    assert connects(policies, NODE, MLFLOW, 5000) == ("nodes" in names)


def test_a_service_leads_to_a_port_that_its_pods_open_and_policies_admit(distributed):
    templates, policies = pods(distributed), of(distributed, "NetworkPolicy")
    for service in of(distributed, "Service"):
        spec = service["spec"]
        template = templates[service["metadata"]["name"]]
        assert selects({"matchLabels": spec["selector"]}, template["metadata"]["labels"])
        opened = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        for port in spec["ports"]:
            assert any(
                connects(policies, source, template["metadata"]["labels"], opened[port["targetPort"]])
                for source in (STEP, MLFLOW)
            )


def test_without_the_policies_everything_would_be_open():
    assert connects([], STRANGER, POSTGRESQL, 5432)


def test_what_the_operations_page_opens_is_open_then_and_nothing_else(tmp_path):
    """A webhook on another port, and an object store in a namespace of its own, by the patches on the page."""
    page = (OVERLAYS.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(each) for each in re.findall(r"^ *```yaml\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)]
    (patches,) = (block["patches"] for block in blocks if set(block) == {"patches"})
    (tmp_path / "manifests").symlink_to(OVERLAYS.parents[1] / "manifests")
    (tmp_path / "deploy").mkdir()
    made = {"resources": ["../manifests/overlays/gpu"], "patches": patches}
    (tmp_path / "deploy" / "kustomization.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
    before, after = (of(kustomize(each), "NetworkPolicy") for each in (OVERLAYS / "gpu", tmp_path / "deploy"))
    storage = {"namespace": {"kubernetes.io/metadata.name": "storage"}, "pod": {}}
    for port, where in ((9000, storage), (8443, {"address": "203.0.113.7"})):
        assert not reaches(before, STEP, port, **where) and reaches(after, STEP, port, **where)
        assert not reaches(after, POSTGRESQL, port, **where)
    assert not reaches(after, STEP, 8333, **storage) and not reaches(after, STEP, 8443, address="169.254.169.254")


def test_the_policy_for_cilium_is_of_steps_and_of_the_namespace():
    page = (OVERLAYS.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(each) for each in re.findall(r"^ *```yaml\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)]
    (policy,) = (block for block in blocks if block.get("kind") == "CiliumNetworkPolicy")
    assert policy["metadata"]["namespace"] == "slimrec" and policy["spec"]["egress"] == [
        {"toEntities": ["kube-apiserver"]}
    ]
    assert selects(policy["spec"]["endpointSelector"], STEP) and not selects(policy["spec"]["endpointSelector"], MLFLOW)
