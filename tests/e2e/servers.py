"""Real servers of other protocols as commands to run in a workload; a test that needs one that is missing is skipped.

`tools/test-servers.sh`, which `make test` runs, gets what is missing where it can.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["command", "mariadb", "mongodb", "prometheus", "redis_server"]

_PATH = f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}:/usr/sbin:/sbin"


def command(name: str, package: str) -> str:
    """Return where a command is; skip the test when it is nowhere."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


def mariadb(folder: Path) -> list[str]:
    """Return the command that serves MySQL's protocol on port 3306 with data below `folder`; `root` has no password."""
    install = command("mariadb-install-db", "mariadb-server-core")
    server = command("mariadbd", "mariadb-server-core")
    command("my_print_defaults", "mariadb-client-core")  # the installer asks it
    data = folder / "mysql"
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    small = ["--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M"]
    subprocess.run(
        [
            *(install, "--no-defaults", f"--datadir={data}", "--skip-test-db", "--basedir=/usr"),
            *("--auth-root-authentication-method=normal", *as_root, *small),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    # The host of clients is the proxy's loopback address, and the grants of a fresh server name `localhost` only.
    grants = folder / "grants.sql"
    grants.write_text("CREATE USER root@'%';\nGRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;\n")
    return [
        *(server, "--no-defaults", f"--datadir={data}", f"--socket={folder}/m.sock", "--port=3306", *as_root, *small),
        *("--bind-address=0.0.0.0", "--skip-name-resolve", "--max-allowed-packet=64M", f"--init-file={grants}"),
    ]


def redis_server(folder: Path, *words: str) -> list[str]:
    """Return the command that serves Redis on port 6379 and keeps nothing."""
    # One program with two names: Debian puts it into redis-tools as the checker of dumps.
    program = command("redis-check-rdb", "redis-tools")
    link = folder / "redis-server"
    link.unlink(missing_ok=True)
    link.symlink_to(program)
    keep_nothing = ("--save", "", "--appendonly", "no", "--dir", str(folder))
    return [str(link), *("--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no"), *keep_nothing, *words]


def mongodb(folder: Path) -> list[str]:
    """Return the command that serves MongoDB's protocol on port 27017 with data below `folder`."""
    server = Path(sys.executable).parent / "ferretdb"
    if not server.exists():
        pytest.skip("needs FerretDB, which tools/test-servers.sh builds where there is Go: apt-get install golang")
    data = folder / "mongo"
    data.mkdir()
    return [str(server), "0.0.0.0:27017", str(data)]


def prometheus(folder: Path, config: str, port: int) -> list[str]:
    """Return the command of a Prometheus that keeps its data below `folder` and answers on 127.0.0.1:`port`."""
    server = command("prometheus", "prometheus")
    file = folder / "prometheus.yml"
    file.write_text(config)
    return [
        *(server, f"--config.file={file}", f"--storage.tsdb.path={folder}/data", "--log.level=warn"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
