"""Where the steps run on a cluster: names as plain data, what puts each step there, and the pipeline's text for it."""

import itertools
import posixpath
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kfp import dsl, kubernetes
from kfp.compiler import Compiler
from slimrec.components import GPU_IMAGE, IMAGE
from slimrec.pipelines.audit import Step, arguments, build, named
from slimrec.pipelines.images import require_digest
from slimrec.pipelines.sizes import Size, sizes

from slimrec.artifacts import write_text
from slimrec.artifacts.codebase import COMPILED, compiled
from slimrec.config import Recipe
from slimrec.errors import ConfigError

# Names that manifests/ gives to what it makes.
WORKSPACE_CLAIM, WORKSPACE = "slimrec-workspace", "/workspace"
SECRETS = {
    "slimrec-object-store": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"),
    "slimrec-mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
WEBHOOK, SIGNING = ("slimrec-webhook", "SLIMREC_WEBHOOK"), ("slimrec-signing", "SLIMREC_SIGNING_KEY")
OPTIONAL = {"notify": WEBHOOK, "register": SIGNING, "refuse": SIGNING}  # what a step may do without
USER = 65532
GPU = "nvidia.com/gpu"
GPU_NODE = ("nvidia.com/gpu.present", "true")
RUN_ID = "metadata.labels['pipeline/runid']"  # the label that Kubeflow Pipelines gives every pod of a run

# The last of these bounds all tries together, running time included (kubeflow pipelines 14245): a week, not the default
# hour, or a training that is preempted after an hour would never be resumed.
RETRIES = {"num_retries": 4, "backoff_duration": "15s", "backoff_factor": 2.0, "backoff_max_duration": "604800s"}

KIND = {
    **dict.fromkeys(("fingerprint", "window", "notify"), "light"),
    **dict.fromkeys(("ingest", "plan", "count", "merge", "encode", "gather", "sample"), "data"),
    **dict.fromkeys(("prune", "evaluate", "register", "refuse"), "model"),
    **dict.fromkeys(("pretrain", "finetune", "baseline"), "train"),
}


def write(
    path: Path, recipe: Recipe | None, preset: str = "S", allow_tag: bool = False, by_hand: Sequence[str] = ()
) -> None:
    """Write what `text` gives; raises what it raises, and then writes nothing."""
    content = text(recipe, preset, allow_tag, by_hand)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, content)


def text(recipe: Recipe | None, preset: str = "S", allow_tag: bool = False, by_hand: Sequence[str] = ()) -> str:
    """The audit compiled for a cluster, the same bytes in every process; a recipe's values are its defaults.

    Ingest fans out where the recipe asks for `parts`. `by_hand` changes the preset's sizes, as in `sizes`.

    Raises ConfigError for a preset or size there is not, for an image that is not named by its digest, and for a source
    that no pod sees.
    """
    placing = placed(sizes(preset, by_hand))
    for image in {IMAGE, GPU_IMAGE}:  # of S too: the nodes of a TrainJob run the latter
        require_digest(image, allow_tag)
    if recipe:
        require_reachable(recipe.ingest.source)
    values = arguments(recipe) if recipe else {}
    audit = build(placing, in_parts=recipe is not None and recipe.ingest.parts > 1, workspace=WORKSPACE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audit.yaml")
        Compiler().compile(audit, str(path), pipeline_parameters=values)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # kfp begins with comments that hold the default values in an order of this process alone
    return "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines))


def require_reachable(source: str) -> str:
    """The source, if a pod can read it: a generated log, an object store's address, a path of the workspace volume.

    Raises ConfigError for every other path: pods mount nothing of the machine that sends the audit.
    """
    if source.startswith(("planted:", "s3://")) or posixpath.normpath(source).startswith(f"{WORKSPACE}/"):
        return source
    raise ConfigError(
        f"ingest.source is '{source}', which the pods of a cluster do not see; they read s3://BUCKET/PATH, or a path "
        f"under {WORKSPACE}, where the claim {WORKSPACE_CLAIM} is mounted: copy the log to one of the two"
    )


def placed(asked: dict[str, Size]) -> Step:
    """What gives each task of the audit its name, size, volumes, secrets and retries; `asked` is by kind of step."""

    def place(name: str, task: dsl.PipelineTask) -> dsl.PipelineTask:
        size = asked[KIND[name]]
        _sized(named(name, task), size)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "slimrec")
        kubernetes.add_pod_label(task, "app.kubernetes.io/component", name)
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.use_field_path_as_env(task, "SLIMREC_AUDIT", RUN_ID)
        kubernetes.mount_pvc(task, WORKSPACE_CLAIM, WORKSPACE)
        kubernetes.empty_dir_mount(task, "tmp", "/tmp")  # the only other place to write: the image is read-only
        for secret, keys in SECRETS.items():
            kubernetes.use_secret_as_env(task, secret, {key: key for key in keys})
        image = GPU_IMAGE if size.gpus else IMAGE
        task.set_env_variable(COMPILED, compiled(image))
        if KIND[name] == "train":  # which image the nodes of a TrainJob run, if the recipe asks for several
            task.set_env_variable("SLIMREC_IMAGE", GPU_IMAGE)
        if name in OPTIONAL:
            secret, key = OPTIONAL[name]
            kubernetes.use_secret_as_env(task, secret, {key: key}, optional=True)
        if name == "notify":
            return task
        return task.set_retry(
            **RETRIES
        )  # an error that a retry cannot mend stops it at once: slimrec.artifacts.failures

    return place


def _sized(task: dsl.PipelineTask, size: Size) -> None:
    task.set_cpu_request(size.cpu[0]).set_cpu_limit(size.cpu[1])
    task.set_env_variable("OMP_NUM_THREADS", str(size.threads))  # else as many as the node has, on a share of them
    task.set_memory_request(size.memory).set_memory_limit(size.memory)
    if size.gpus:
        task.set_container_image(GPU_IMAGE).set_accelerator_type(GPU).set_accelerator_limit(size.gpus)
        kubernetes.add_node_selector(task, *GPU_NODE)
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    if size.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=size.shared_memory)
