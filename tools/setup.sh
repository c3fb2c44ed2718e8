#!/usr/bin/env bash
# Make the virtual environment $1 and install exactly what requirements file $2 names, and Lateen itself.
# Needs Python 3.11 or newer with venv; as root on Debian a missing one is installed, otherwise the package is named.
set -euo pipefail
venv=$1 requirements=$2

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
  local name
  for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$name" ] && command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$name"
      return
    fi
  done
}

# What Debian calls the packages that are missing, as root installed at once.
need() {
  local package=$1 why=$2
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing $package ($why)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } >/dev/null \
      || fail "$package could not be installed; $why"
  else
    fail "$why; as root: apt-get install $package"
  fi
}

python=$(find_python)
if [ -z "$python" ]; then
  need python3-venv "Python 3.11 or newer is wanted"
  python=$(find_python)
  [ -n "$python" ] || fail "Python 3.11 or newer is wanted, this system has $(python3 --version 2>&1)"
fi

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  "$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv "this Python cannot make virtual environments"
  rm -rf "$venv"
  echo "setup: making $venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi

echo "setup: installing what $requirements names"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
