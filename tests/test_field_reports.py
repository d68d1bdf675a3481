"""What people reported of neighbouring tools, each a script from outside that ends with 0 where slimrec does right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from services import HANG

ROOT = Path(__file__).parents[1]
REPORTS = ROOT.parent / "shared" / "field-reports"
CASES = sorted(path for path in REPORTS.glob("*/*/case.py") if not path.parent.name.startswith("c08"))
NONE = pytest.param(None, marks=pytest.mark.skip("no ../shared/field-reports: they are not part of the repository"))


@pytest.mark.battery
@pytest.mark.parametrize("case", CASES or [NONE], ids=lambda path: path.parent.name if path else "none")
def test_what_people_reported_of_other_tools_is_done_right_here(case):
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "SLIMREC"))}
    done = subprocess.run(
        [sys.executable, "case.py"], check=False, cwd=case.parent, timeout=HANG, capture_output=True, text=True,
        env={**own, "SLIMREC_REPO": str(ROOT), "SLIMREC_PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
