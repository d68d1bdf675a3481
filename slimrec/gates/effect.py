"""Which option of a method has an effect only beside others, that choose a mode.

Imports nothing heavy: recipes are checked by it where there is no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Given = Mapping[str, Any]  # all options of a method, by default where they are not given
Effect = tuple[Callable[[Given], bool], str]  # whether an option has an effect, and where it has


def _walks(given: Given) -> bool:
    return all(given[name] is None for name in ("reference", "alpha", "stream"))


_PATH: Effect = (_walks, "the path, without `alpha`, `stream` or `reference`")
_WITHIN: Effect = (
    lambda given: not _walks(given),
    "gates that learn within the training, with `alpha`, `stream` or `reference`",
)
_NOT_CODE: Effect = (
    lambda given: not _walks(given) and given["reference"] != "code",
    "gates that learn within the training at a price of their own, with `alpha`, `stream` or `reference: paper`",
)
_VALUES: Effect = (lambda given: given["grain"] != "field", "`grain: value` and `grain: hybrid`")

EVERY: Effect = (lambda given: given["stream"] in (None, "gate"), "`stream: gate`")  # of all methods with these two
EFFECT: dict[str, dict[str, Effect]] = {
    "leap": {
        **dict.fromkeys(("least", "gap"), _PATH),
        **dict.fromkeys("decay temperature start learning_rate warmup reservoir".split(), _WITHIN),
        "every": (
            lambda given: not _walks(given) and EVERY[0](given),
            "gates that step on the gate slice, `stream: gate`",
        ),
        "floor": _NOT_CODE,
        "alpha": (lambda given: given["reference"] != "code", "`reference: paper` and no reference"),
        "fs_weight": (lambda given: given["reference"] == "code", "`reference: code`"),
    },
    "lpfs": dict.fromkeys(("alpha", "tau"), (lambda given: given["variant"] == "lpfs++", "`variant: lpfs++`")),
    "adafs": {"share": (lambda given: given["variant"] == "hard", "`variant: hard`")},
    "irazor": {"lp_weight": (lambda given: given["reference"] != "code", "`reference: paper` and no reference")},
    "optfeature": dict.fromkeys(("fall_back", "min_share"), _VALUES),
}
