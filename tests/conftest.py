"""For all tests: their order, temporary files in pytest's own folder, also those of processes, and no trace of kfp."""

import builtins
import inspect
import os
import sys
import tempfile

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files with a battery, whose other tests are long ones too, come first: at the end no processor waits for another."""
    long = {item.path for item in items if item.get_closest_marker("battery")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory):
    """pytest removes its folders after some runs; nothing else would remove those of kfp, MLflow and torchrun."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def frames_without_source():
    """kfp asks for the whole stack to learn a caller's name: to find the file of each frame takes most of a compilation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        yield


def stack(context: int = 0) -> list[inspect.FrameInfo]:
    """`inspect.stack` with what each frame says of itself: no source line, the file by the name that it was compiled by."""
    frame, found = inspect.currentframe(), []
    while frame := frame.f_back:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
    return found


PRINT = builtins.print


@pytest.fixture(autouse=True)
def print_as_usual():
    """kfp.local indents what is printed while a step runs, and leaves it so where steps of a loop end out of order."""
    builtins.print = PRINT
    yield
    builtins.print = PRINT


@pytest.fixture(scope="module", autouse=True)
def no_store_of_another_file():
    """MLflow goes on with the address that it was given last, whatever the environment says by then."""
    before = {name: value for name, value in os.environ.items() if name == "MLFLOW_TRACKING_URI"}
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)  # which takes it out of the environment too
    os.environ.update(before)
