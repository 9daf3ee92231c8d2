"""The site, built once for all tests and all workers."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory, request):
    """The folder of the built site."""
    missing = [
        name for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml") if not importlib.util.find_spec(name)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: pip install '.[docs]'")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "site"
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            # a proxy that is not there: a build that asked for anything would fail
            offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, timeout=900
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return folder
