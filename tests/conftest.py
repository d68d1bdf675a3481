"""For all tests: what they and the processes they start leave among the temporary files lies in pytest's own folder."""

import tempfile

import pytest


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory):
    """pytest removes its folders after some runs; nothing else would remove those of kfp, MLflow and torchrun."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
