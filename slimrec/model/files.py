"""Model folders: `model.json` says how to rebuild, safetensors hold the weights, schema and vocabularies lie beside them."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch as st
import torch
from torch import nn

from slimrec.artifacts import read_json, verify, write_json
from slimrec.config import ModelConfig
from slimrec.data.encode import Encoder
from slimrec.errors import SecurityError
from slimrec.model import Arena, Model, with_gate
from slimrec.model.model import network
from slimrec.schema import Block, Schema
from slimrec.written import parse


def save_model(model: Model, folder: Path, encoder: Encoder) -> None:
    """Write a model into an artifact folder under way; `encoder` brings the vocabularies of the model's fields."""
    gate = model.gate and {
        "method": model.gate.method,
        "options": model.gate.options,
        "frozen": model.gate.frozen,
    }
    write_json(
        folder / "model.json",
        {
            "config": model.config.model_dump(),
            "backbone_options": model.backbone.options,
            "blocks": [{"name": block.name, "columns": block.columns} for block in model.blocks],
            "gate": gate,
        },
    )
    _save(model.arena, model.backbone, path=folder / "model.safetensors")
    if model.gate is not None:
        _save(model.gate, path=folder / "gate.safetensors")
    encoder.narrow(model.schema.names).save(folder)


def load_model(folder: str | Path, kind: str | None = None) -> Model:
    """The model of a verified artifact folder, on the CPU, in eval mode, with its gate if it has one."""
    folder = Path(folder)
    verify(folder, kind)
    plan = read_json(folder / "model.json")
    config = parse(ModelConfig, plan["config"], SecurityError)
    schema = parse(Schema, read_json(folder / "schema.json"), SecurityError)
    blocks = tuple(Block(block["name"], tuple(block["columns"])) for block in plan["blocks"])
    backbone = network(schema, config, blocks, plan["backbone_options"])
    model = Model(Arena(schema, blocks), None, backbone, config)
    _load(model.arena, model.backbone, path=folder / "model.safetensors")
    if plan["gate"]:
        with_gate(model, plan["gate"]["method"], plan["gate"]["options"], seed=0)
        _load(model.gate, path=folder / "gate.safetensors")
        if plan["gate"]["frozen"]:
            model.gate.freeze()
    return model.eval()


def _save(*modules: nn.Module, path: Path) -> None:
    tensors = {
        f"{i}.{name}": t.detach().cpu().contiguous().clone()
        for i, m in enumerate(modules)
        for name, t in m.state_dict().items()
    }
    st.save_file(tensors, path)


def _load(*modules: nn.Module, path: Path) -> None:
    try:
        tensors = st.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise SecurityError(f"{path} does not load: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SecurityError(f"{path}: '{name}' holds NaN or infinities")
    for i, module in enumerate(modules):
        part = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{i}.")}
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise SecurityError(f"{path} does not fit its model.json: {error}") from None
