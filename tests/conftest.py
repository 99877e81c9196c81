import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core; more threads would only wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start

import pytest
import torch

# Tests never leave this machine, and say so to the Hub client before it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def run(tmp_path):
    """A run of train.py, as `write_train_run` leaves it."""
    from tests.support.samples import write_train_run  # after the environment is set

    return write_train_run(tmp_path)


@pytest.fixture
def segmenter_run(tmp_path):
    from tests.support.samples import write_segmenter_run

    return write_segmenter_run(tmp_path)


@pytest.fixture
def small(tmp_path):
    """A small data set for segmentation."""
    from tests.support.samples import write_small

    write_small(tmp_path)
    return tmp_path


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps a process's settings, such as the precision, for all that follow in it."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
