"""Fixtures: backends, the `slow` marker, the accuracy report.

Environment: FASTACT_TEST_BACKENDS names the backends that must be available (a failure otherwise, not a skip);
FASTACT_ACCURACY_JSON is the file to which measured accuracy is added, for tools/accuracy_report.py.
"""

from __future__ import annotations

import os

import pytest

# Python processes that tests start from the checkout must not find the package there, which has nothing built
os.environ.setdefault("PYTHONSAFEPATH", "1")

import ulp
from cases import BACKENDS, fa, unavailable

from fastact.runtime import _driver


def pytest_addoption(parser):
    parser.addoption(
        "--exhaustive", metavar="NAMES", default="relu,sigmoid,gelu", help="activations of test_exhaustive.py"
    )


def pytest_collection_modifyitems(config, items):
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))


def pytest_sessionfinish():
    path = os.environ.get("FASTACT_ACCURACY_JSON")
    if path and ulp.RECORDS:
        ulp.write_records(path)


@pytest.fixture(params=_driver.DRIVER_ISA)
def driver_isa(request):
    """Each instruction set of the driver's own arithmetic that this machine has."""
    most = _driver.status()["driver_isa"]
    if _driver.DRIVER_ISA.index(request.param) > _driver.DRIVER_ISA.index(most):
        pytest.skip(f"this machine has {most}")
    _driver.configure(driver_isa=request.param)
    yield request.param
    _driver.configure(driver_isa=most)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn, in use for the test."""
    reason = unavailable(request.param)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    with fa.use_backend(request.param):
        yield request.param


@pytest.fixture
def threads():
    """Sets the number of threads; put back afterwards."""
    before = fa.get_num_threads()
    yield fa.set_num_threads
    fa.set_num_threads(before)
