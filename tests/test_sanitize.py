"""The thread pool under ThreadSanitizer. AddressSanitizer takes minutes: tools/sanitize.py runs it by hand."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "sanitize.py"


def test_pool_under_thread_sanitizer(tmp_path):
    source = tmp_path / "program.c"
    source.write_text("int main(void) { return 0; }\n")
    command = [*shlex.split(os.environ.get("CC") or "gcc"), "-fsanitize=thread", str(source), "-o", str(tmp_path / "p")]
    try:
        tried = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no C compiler: {error}")
    if tried.returncode:
        pytest.skip(f"no ThreadSanitizer: {tried.stderr.strip()}")
    done = subprocess.run([sys.executable, str(TOOL), "thread"], capture_output=True, text=True, timeout=200)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this compiler's ThreadSanitizer is too old for this Linux, and setarch -R does not help")
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert " 0 failures" in done.stdout
