"""As root, run this folder's tests once more as a user who is nobody: user namespaces instead of rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from tests.fakes import ordinary_user

if os.geteuid() == 0:  # for everybody else, the tests themselves are just that

    @pytest.mark.netns
    def test_all_of_this_as_an_ordinary_user() -> None:
        temporary = tempfile.mkdtemp(prefix="lt-nobody-")
        os.chown(temporary, ordinary_user.NOBODY, ordinary_user.NOBODY)
        pytest_command = (sys.executable, "-m", "pytest", "-q", "-m", "netns", "-p", "no:cacheprovider", "tests/net")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": temporary,
            "TMPDIR": temporary,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        try:
            done = subprocess.run(
                ordinary_user.command(pytest_command),
                cwd=ordinary_user.REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
        finally:
            shutil.rmtree(temporary)
        assert done.returncode == 0, done.stdout + done.stderr
        assert " passed" in done.stdout
        assert "skipped" not in done.stdout
