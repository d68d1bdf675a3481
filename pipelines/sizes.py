"""How much a step's pod asks for: three presets, and what a person raises or lowers in one by hand."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from slimrec.errors import ConfigError, did_you_mean

_AMOUNTS = {  # what can be set by hand -> what it has to look like, and how that is told
    "cpu": (r"\d+m|\d+(\.\d+)?", "processors such as 4 or 500m, or REQUEST:LIMIT such as 2:8"),
    "memory": (r"\d+(\.\d+)?[KMGT]i?", "bytes with a unit, such as 16Gi"),
    "gpus": (r"\d+", "a number such as 1"),
    "shared_memory": (r"\d+(\.\d+)?[KMGT]i?", "bytes with a unit, such as 8Gi"),
}
_UNITS = {"K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Size:
    """What a pod asks for and may use at most: processors, memory, GPUs, and memory for /dev/shm among it."""

    cpu: tuple[str, str]  # request, limit
    memory: str  # request and limit: a pod that lives on borrowed memory is the first to be evicted
    gpus: int = 0
    shared_memory: str = ""

    @property
    def threads(self) -> int:
        """As many as the limit has whole processors, and at least one."""
        return max(1, math.floor(_processors(self.cpu[1])))


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


def sizes(preset: str, by_hand: Sequence[str] = ()) -> dict[str, Size]:
    """The sizes of a preset by kind of step, with `by_hand` put in: KIND.WHAT=AMOUNT, such as train.memory=16Gi.

    Raises ConfigError for a preset, a kind, a thing or an amount there is not.
    """
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset '{preset}'; {did_you_mean(preset, PRESETS)}")
    found = dict(PRESETS[preset])
    for told in by_hand:
        name, equals, amount = told.partition("=")
        kind, _, what = name.partition(".")
        if not equals or kind not in found or what not in _AMOUNTS:
            raise ConfigError(
                f"--size is '{told}'; give KIND.WHAT=AMOUNT, KIND one of {', '.join(found)}, WHAT one of "
                f"{', '.join(_AMOUNTS)}: train.memory=16Gi"
            )
        found[kind] = dataclasses.replace(found[kind], **{what: _amount(told, what, amount)})
    for kind, size in found.items():
        if size.shared_memory and _bytes(size.shared_memory) >= _bytes(size.memory):
            raise ConfigError(
                f"{kind} has shared_memory {size.shared_memory} of memory {size.memory}, which it is a part of: "
                f"lower the one or raise the other by --size {kind}.shared_memory=... or {kind}.memory=..."
            )
    return found


def _amount(told: str, what: str, amount: str) -> str | int | tuple[str, str]:
    pattern, said = _AMOUNTS[what]
    values = amount.split(":") if what == "cpu" else [amount]
    good = len(values) <= 2 and all(re.fullmatch(pattern, value, re.ASCII) for value in values)
    if what == "gpus":
        if good:
            return int(amount)
    elif good and all(re.search("[1-9]", value) for value in values):  # no pod starts with nothing
        if what != "cpu":
            return amount
        if _processors(values[0]) <= _processors(values[-1]):
            return values[0], values[-1]
    raise ConfigError(f"--size {told}: '{amount}' is no amount of {what}; give {said}")


def _processors(amount: str) -> float:
    return float(amount[:-1]) / 1000 if amount.endswith("m") else float(amount)


def _bytes(amount: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", amount).groups()
    return float(number) * (1024 if unit.endswith("i") else 1000) ** _UNITS[unit[0]]
