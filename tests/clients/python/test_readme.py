"""The Python example in README.md works as documented."""

import os
import re
import subprocess
import sys

from conftest import ROOT


def test_the_example_prints_the_documented_output(sandbox, stubs, tmp_path):
    page = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (documented,) = re.findall(r"python login\.py`, it prints:\n\n((?:    .*\n)+)", page)
    assert example.count('"127.0.0.1:50051"') == 1
    script = tmp_path / "login.py"
    script.write_text(example.replace("127.0.0.1:50051", sandbox.gateway))

    run = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [line.strip() for line in documented.splitlines()]
