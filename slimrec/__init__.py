"""slimrec: audit a CTR model's input fields, prune it, prove that nothing was lost."""

import importlib
from pathlib import Path

__version__ = "0.1.0"
_CHECKOUT = Path(__file__).parents[1]
if (_CHECKOUT / "pipelines" / "audit.py").is_file():
    __path__.append(
        str(_CHECKOUT)
    )  # where `components/` and `pipelines/` lie beside the library, not in it as in a wheel
_LATE = {"certify": "slimrec.verdict.certify"}  # what others may use by name; imported when asked for


def __getattr__(name: str):
    if name not in _LATE:
        raise AttributeError(f"module 'slimrec' has no attribute '{name}'")
    return importlib.import_module(_LATE[name])
