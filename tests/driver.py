"""What the driver of a real Kubeflow Pipelines does with a compiled step: hands it inputs in its own shape, and runs it."""

import json
import uuid
from pathlib import Path

import pytest
import yaml
from kfp.dsl import executor_main
from kfp.dsl.types import artifact_types

STORE = "minio://mlpipeline/private-artifacts/slimrec/v2/artifacts/slimrec-audit"


class Made:
    """What a step gave out: parameters, and artifacts as the driver sends them on."""

    def __init__(self, told: dict, folder: Path):
        self.parameters = told.get("parameterValues", {})
        self.artifacts = {name: given["artifacts"][0] for name, given in told.get("artifacts", {}).items()}
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / self.artifacts[name]["uri"].replace("://", "/")

    def sent(self, name: str) -> dict:
        """An artifact for another step's input: its type is a schema without content (seen on version 2.17)."""
        one = self.artifacts[name]
        metadata = {**one.get("metadata", {}), "display_name": name}
        return {"name": "8", "type": {"instanceSchema": ""}, "uri": one["uri"], "metadata": metadata}


class Driver:
    """Runs the steps of compiled pipelines as containers would, the store and the containers' folders below `folder`."""

    def __init__(self, folder: Path, *pipelines: Path):
        self.folder, self.components, self.commands = folder, {}, {}
        for path in pipelines:
            spec = next(iter(yaml.safe_load_all(path.read_text(encoding="utf-8"))))
            self.components |= spec["components"]
            self.commands |= spec["deploymentSpec"]["executors"]

    def run(self, step: str, parameters: dict, **artifacts: dict | list[dict]) -> Made:
        """Run a step; `artifacts` are inputs as `Made.sent` gives them, a list for a list of artifacts."""
        return self.replay(step, self.inputs(step, parameters, artifacts))

    def inputs(self, step: str, parameters: dict, artifacts: dict) -> dict:
        """The executor input that the driver makes of a component: what was recorded on a real one, name by name."""
        outputs = self.components[f"comp-{step}"].get("outputDefinitions", {})
        types = {name: one["artifactType"] for name, one in outputs.get("artifacts", {}).items()}
        types["executor-logs"] = {"schemaTitle": "system.Artifact"}
        place = f"{STORE}/{uuid.uuid4()}/{step}/{uuid.uuid4()}"
        made = {name: {"name": name, "type": kind, "uri": f"{place}/{name}"} for name, kind in types.items()}
        named = {name: given if isinstance(given, list) else [given] for name, given in artifacts.items()}
        return {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {name: {"artifacts": given} for name, given in named.items()},
            },
            "outputs": {
                "artifacts": {name: {"artifacts": [one]} for name, one in made.items()},
                "outputFile": f"/{place.replace('://', '/')}/output_metadata.json",
                "parameters": {
                    name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in outputs.get("parameters", {})
                },
            },
        }

    def replay(self, step: str, executor_input: dict) -> Made:
        """Run a step by kfp's executor, with the text and the words of the compiled container."""
        container = self.commands[f"exec-{step}"]["container"]
        program = self.folder / f"program_{uuid.uuid4().hex}.py"
        program.write_text(container["command"][-1], encoding="utf-8")
        text = json.dumps(executor_input).replace('"/minio/', f'"{self.folder}/minio/')
        text = text.replace('"/tmp/kfp/', f'"{self.folder}/kfp/')
        words = [text if word == "{{$}}" else word for word in container["args"]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(artifact_types, "_MINIO_LOCAL_MOUNT_PREFIX", f"{self.folder}/minio/")
            patch.setattr(artifact_types, "CONTAINER_TASK_ROOT", None)
            patch.setattr("sys.argv", ["executor_main", "--component_module_path", str(program), *words])
            executor_main.executor_main()
        told = Path(json.loads(text)["outputs"]["outputFile"])
        return Made(json.loads(told.read_text(encoding="utf-8")), self.folder)
