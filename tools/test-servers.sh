#!/usr/bin/env bash
# Get the servers and clients that tests talk to and Python cannot bring: what is missing of them, nothing else.
# As root on Debian packages are installed (none of them starts a service); FerretDB, a MongoDB server, is built into
# $1/bin where there is Go. Whatever cannot be had is no fault: the tests that need it are skipped and say which package
# is missing.
set -uo pipefail
venv=$1

# Command -> Debian's package. The installer of MariaDB asks a program of its client's package. The server of Redis is in
# redis-tools, under the name of its checker; the package redis-server would also start one, as apache2 does beside
# apache2-bin.
packages=()
for pair in mariadbd:mariadb-server-core my_print_defaults:mariadb-client-core redis-check-rdb:redis-tools curl:curl \
  apache2:apache2-bin; do
  PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
done
if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test servers: installing ${packages[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } \
      >/dev/null 2>&1 || echo "test servers: ${packages[*]} could not be installed: tests that need them are skipped"
  else
    echo "test servers: tests that need ${packages[*]} are skipped; as root: apt-get install ${packages[*]}"
  fi
fi

# These come in packages that start them, so only their programs are taken out of those.
for pair in nginx:usr/sbin/nginx prometheus:usr/bin/prometheus; do
  name=${pair%%:*}
  PATH="$PATH:/usr/sbin:$venv/bin" command -v "$name" >/dev/null && continue
  unpacked=$(mktemp -d)
  take() { (cd "$unpacked" && apt-get download -qq "$name" && dpkg-deb -x "$name"_*.deb .) >/dev/null 2>&1; }
  # A machine that has never asked what packages there are finds none: root asks, once.
  if command -v apt-get >/dev/null && { take || { [ "$(id -u)" = 0 ] && apt-get update -qq >/dev/null 2>&1 && take; }; }; then
    echo "test servers: taking $name out of its package"
    install -m 755 "$unpacked/${pair##*:}" "$venv/bin/$name"
  else
    echo "test servers: $name could not be had: tests that need it are skipped; as root: apt-get install $name"
  fi
  rm -rf "$unpacked"
done

if [ ! -x "$venv/bin/ferretdb" ]; then
  if go=$(command -v go || ls /usr/local/go/bin/go 2>/dev/null); then
    echo "test servers: building a MongoDB server (FerretDB), once"
    log=$("$go" build -C "$(dirname "$0")/../tests/e2e/ferretdb" -tags ferretdb_no_postgresql -ldflags=-s \
      -o "$(cd "$venv/bin" && pwd)/ferretdb" . 2>&1) || printf 'test servers: %s\n' "$log" "tests of MongoDB are skipped"
  else
    echo "test servers: no Go to build a MongoDB server with (Debian: golang): tests of MongoDB are skipped"
  fi
fi
exit 0
