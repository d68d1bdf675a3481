"""Where the steps run on a cluster and with how much: sizes and names as plain data, and what applies them."""

from dataclasses import dataclass
from pathlib import Path

from kfp import dsl, kubernetes
from kfp.compiler import Compiler
from slimrec.components import GPU_IMAGE, IMAGE
from slimrec.pipelines.audit import Step, arguments, build, named
from slimrec.pipelines.images import require_digest

from slimrec.artifacts.codebase import COMPILED, compiled
from slimrec.config import Recipe
from slimrec.errors import ConfigError, did_you_mean

# Names that manifests/ gives to what it makes.
SERVICE_ACCOUNT = "slimrec-pipeline"
WORKSPACE_CLAIM, WORKSPACE = "slimrec-workspace", "/workspace"
SECRETS = {
    "slimrec-object-store": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"),
    "slimrec-mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
WEBHOOK = ("slimrec-webhook", "SLIMREC_WEBHOOK")
USER = 65532
GPU = "nvidia.com/gpu"
GPU_NODE = ("nvidia.com/gpu.present", "true")
RUN_ID = "metadata.labels['pipeline/runid']"  # the label that Kubeflow Pipelines gives every pod of a run

# The last of these bounds all tries together, running time included (kubeflow pipelines 14245): a week, not the default
# hour, or a training that is preempted after an hour would never be resumed.
RETRIES = {"num_retries": 4, "backoff_duration": "15s", "backoff_factor": 2.0, "backoff_max_duration": "604800s"}


@dataclass(frozen=True)
class Size:
    """What a pod asks for and may use at most: processors, memory, GPUs, and memory for /dev/shm among it."""

    cpu: tuple[str, str]  # request, limit
    memory: str  # request and limit: a pod that lives on borrowed memory is the first to be evicted
    gpus: int = 0
    shared_memory: str = ""


LIGHT = Size(cpu=("250m", "1"), memory="1Gi")
# S: ten million rows or so, and tables that fit a laptop. M: one GPU a training. L: one training on a node with eight.
# The quotas of the overlays in manifests/ leave room for them, those of a single machine for S.
PRESETS = {
    "S": {
        "light": LIGHT,
        "data": Size(cpu=("1", "4"), memory="4Gi"),
        "model": Size(cpu=("1", "4"), memory="4Gi"),
        "train": Size(cpu=("2", "8"), memory="8Gi"),
    },
    "M": {
        "light": LIGHT,
        "data": Size(cpu=("4", "8"), memory="32Gi"),
        "model": Size(cpu=("2", "8"), memory="32Gi"),
        "train": Size(cpu=("6", "12"), memory="64Gi", gpus=1, shared_memory="8Gi"),
    },
    "L": {
        "light": LIGHT,
        "data": Size(cpu=("8", "16"), memory="64Gi"),
        "model": Size(cpu=("8", "16"), memory="256Gi"),
        "train": Size(cpu=("48", "96"), memory="512Gi", gpus=8, shared_memory="64Gi"),
    },
}
KIND = {
    **dict.fromkeys(("fingerprint", "window", "notify"), "light"),
    **dict.fromkeys(("ingest", "plan", "count", "merge", "encode", "gather", "sample"), "data"),
    **dict.fromkeys(("prune", "evaluate", "register", "refuse"), "model"),
    **dict.fromkeys(("pretrain", "finetune", "baseline"), "train"),
}


def write(path: Path, recipe: Recipe | None, preset: str = "S", allow_tag: bool = False) -> None:
    """Compile the audit for a cluster; a recipe's values become the defaults of its parameters.

    Ingest fans out where the recipe asks for `parts`.

    Raises ConfigError for a preset there is not, and for an image that is not named by its digest.
    """
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset '{preset}'; {did_you_mean(preset, PRESETS)}")
    for image in {IMAGE, GPU_IMAGE}:  # of S too: the nodes of a TrainJob run the latter
        require_digest(image, allow_tag)
    values = arguments(recipe) if recipe else {}
    audit = build(placed(preset), in_parts=recipe is not None and recipe.ingest.parts > 1)
    Compiler().compile(audit, str(path), pipeline_parameters={**values, "workspace": WORKSPACE})


def placed(preset: str) -> Step:
    """What gives each task of the audit its name, size, volumes, secrets and retries."""

    def place(name: str, task: dsl.PipelineTask) -> dsl.PipelineTask:
        _sized(named(name, task), PRESETS[preset][KIND[name]])
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.use_field_path_as_env(task, "SLIMREC_AUDIT", RUN_ID)
        kubernetes.mount_pvc(task, WORKSPACE_CLAIM, WORKSPACE)
        kubernetes.empty_dir_mount(task, "tmp", "/tmp")  # the only other place to write: the image is read-only
        for secret, keys in SECRETS.items():
            kubernetes.use_secret_as_env(task, secret, {key: key for key in keys})
        image = GPU_IMAGE if PRESETS[preset][KIND[name]].gpus else IMAGE
        task.set_env_variable(COMPILED, compiled(image))
        if KIND[name] == "train":  # which image the nodes of a TrainJob run, if the recipe asks for several
            task.set_env_variable("SLIMREC_IMAGE", GPU_IMAGE)
        if name == "notify":
            secret, key = WEBHOOK
            return kubernetes.use_secret_as_env(task, secret, {key: key}, optional=True)
        return task.set_retry(
            **RETRIES
        )  # an error that a retry cannot mend stops it at once: slimrec.artifacts.failures

    return place


def _sized(task: dsl.PipelineTask, size: Size) -> None:
    task.set_cpu_request(size.cpu[0]).set_cpu_limit(size.cpu[1])
    task.set_env_variable("OMP_NUM_THREADS", size.cpu[1])  # else as many as the node has processors, on a share of them
    task.set_memory_request(size.memory).set_memory_limit(size.memory)
    if size.gpus:
        task.set_container_image(GPU_IMAGE).set_accelerator_type(GPU).set_accelerator_limit(size.gpus)
        kubernetes.add_node_selector(task, *GPU_NODE)
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    if size.shared_memory:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=size.shared_memory)
