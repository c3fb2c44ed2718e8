"""Real web servers behind a proxy: nginx and Apache, each with something public and something that is not.

At any host but `admin.test`: `/public/page.txt` for everybody, `/admin/secret.txt` for nobody. At `admin.test`:
`/secret.txt`. What is protected has the header `x-secret` and a body of its own. Each request is a line of a log.
A test that needs a server that is missing is skipped; `tools/test-servers.sh` gets them.
"""

from __future__ import annotations

import grp
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import pytest
from tests.fakes.ports import free_port

PUBLIC, BY_PATH, BY_HOST = b"a public page", b"secret of the path", b"secret of the host"
START_SECONDS = 15.0
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

NGINX = """
daemon off; master_process off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format asked '$request';
  access_log {folder}/asked.log asked;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  keepalive_requests 100000;
  server {{
    listen 127.0.0.1:{port} default_server; server_name public.test; root {folder}/files;
    add_header x-asked $request always;
    location /admin {{ add_header x-secret path always; }}
  }}
  server {{
    listen 127.0.0.1:{port}; server_name admin.test; root {folder}/admin-files;
    add_header x-secret host always; add_header x-asked $request always;
  }}
}}
"""

APACHE = """
ServerRoot {folder}
ServerName public.test
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
Mutex file:{folder}
{modules}
{user}
MaxKeepAliveRequests 0
LogFormat "%r" asked
CustomLog {folder}/asked.log asked
AllowEncodedSlashes On
<Directory />
  Require all granted
</Directory>
Header always set x-asked expr=%{{THE_REQUEST}}
<VirtualHost 127.0.0.1:{port}>
  ServerName public.test
  DocumentRoot {folder}/files
  <Location /admin>
    Header always set x-secret path
  </Location>
</VirtualHost>
<VirtualHost 127.0.0.1:{port}>
  ServerName admin.test
  DocumentRoot {folder}/admin-files
  Header always set x-secret host
</VirtualHost>
"""
APACHE_MODULES = ("mpm_event", "authz_core", "headers")


class WebServer:
    """One server; use as a context manager."""

    def __init__(self, name: str, command: str, package: str) -> None:
        found = shutil.which(command, path=_PATH)
        if found is None:
            pytest.skip(f"needs {command}: apt-get install {package}")
        self.name = name
        self._command = found
        self.port = free_port()

    def __enter__(self) -> Self:
        # Servers that are started as root become somebody else, who may not enter pytest's folders.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/tmp"))
        self.folder.chmod(0o777)
        for name, text in (
            ("files/public/page.txt", PUBLIC),
            ("files/admin/secret.txt", BY_PATH),
            ("admin-files/secret.txt", BY_HOST),
            ("asked.log", b""),
        ):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(text)
        (self.folder / "asked.log").chmod(0o666)
        self._process = subprocess.Popen(
            self._arguments(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._process.kill()
                    error = self._process.stderr.read() if self._process.stderr else b""
                    raise AssertionError(f"{self.name} does not start: {error.decode()}") from None
                threading.Event().wait(0.02)

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        finally:
            if self._process.stderr:
                self._process.stderr.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def asked(self) -> list[str]:
        """Return the first line of each request that the server took for one."""
        return (self.folder / "asked.log").read_text("latin-1").splitlines()

    def _arguments(self) -> list[str]:
        root = os.geteuid() == 0
        if self.name == "nginx":
            text = NGINX.format(folder=self.folder, port=self.port, user="user root;" if root else "")
            (self.folder / "nginx.conf").write_text(text)
            return [self._command, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", "error.log"]
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in APACHE_MODULES
        )
        group = "nogroup" if any(entry.gr_name == "nogroup" for entry in grp.getgrall()) else "nobody"
        user = f"User nobody\nGroup {group}" if root else ""
        text = APACHE.format(folder=self.folder, port=self.port, modules=modules, user=user)
        (self.folder / "apache.conf").write_text(text)
        return [self._command, "-DFOREGROUND", "-f", str(self.folder / "apache.conf")]


def nginx() -> WebServer:
    return WebServer("nginx", "nginx", "nginx")


def apache() -> WebServer:
    return WebServer("apache", "apache2", "apache2-bin")
