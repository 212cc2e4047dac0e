# Sourced by the other scripts: a virtual environment with the package in it, and an opencode.
# Needs Python >= 3.11 and npm; everything goes into the checkout (.venv, .cache), nothing global.
# shellcheck shell=bash

set -euo pipefail
script=${0##*/}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
python=$root/.venv/bin/python
export CHUTES_OPENCODE_HOME="${CHUTES_OPENCODE_HOME:-$root/.cache/chutes-opencode}"
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$script: $*"
    exit 2
}

# Print the first Python on PATH that is new enough and can make virtual environments.
find_python() {
    local name venv_is_missing=""
    for name in python3.13 python3.12 python3.11 python3; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
        venv_is_missing=$name
    done
    [ -z "$venv_is_missing" ] ||
        die "Python's venv module is missing from $venv_is_missing: install it (Debian: python3-venv)."
    die "Python is missing: install Python 3.11 or newer, as python3 on PATH."
}

# Install the package, with the extras that are named ("", "[dev]"), once for each state of its
# dependencies. The build tool comes from constraints.txt too, hence no isolation.
prepare_python() {
    local extras=$1 stamp=.venv/.installed$1 key
    key="$root $(cat pyproject.toml constraints.txt scripts/environment.sh | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && "$python" -c '' 2>/dev/null; then return; fi
    if ! "$python" -c 'import pip' 2>/dev/null; then
        local found
        found=$(find_python)
        say "making .venv with $("$found" --version)"
        "$found" -m venv --clear .venv
    fi
    say "installing chutes-opencode$extras into .venv"
    "$python" -m pip install -qq --constraint constraints.txt hatchling editables
    "$python" -m pip install -qq --constraint constraints.txt --no-build-isolation \
        --editable ".$extras"
    printf '%s' "$key" >"$stamp"
}

# Stop early, with one line, when there is no opencode and no npm to fetch it with.
require_npm() {
    [ -z "${OPENCODE_BIN:-}" ] || return 0
    compgen -G "$CHUTES_OPENCODE_HOME/opencode/*/opencode" >/dev/null && return 0
    npm --version >/dev/null 2>&1 && return 0
    command -v opencode >/dev/null && return 0
    die "npm is missing: install Node.js with npm (or set OPENCODE_BIN to an opencode binary)."
}

# Have an opencode: OPENCODE_BIN's or PATH's if it is supported, else npm's into .cache.
prepare_opencode() {
    local found
    found=$("$root/.venv/bin/chutes-opencode" setup) || exit
    say "$found"
}

prepare() {
    require_npm
    prepare_python "$1"
    prepare_opencode
}

no_namespace="this system lets us make no network namespace"

# Tell `on_loopback` how to do it: as root, else in a user namespace; else it is enough if Ray takes
# 127.0.0.1 by itself, as it does where there is no network. Fails where none of that is so.
find_namespace() {
    for namespace in "--net" "--user --map-root-user --net"; do
        if on_loopback true 2>/dev/null; then return; fi
    done
    namespace=""
    [ "$(uname)" = Linux ] &&
        "$python" -c 'import ray.util, sys; sys.exit(ray.util.get_node_ip_address() != "127.0.0.1")'
}

# Run a command where 127.0.0.1 is all that there is of a network: Ray listens on what it finds.
on_loopback() {
    if [ -z "$namespace" ]; then
        "$@"
    else
        # shellcheck disable=SC2086 # these are words
        unshare $namespace sh -c '"$0" "$1" && shift && exec "$@"' \
            "$python" "$root/scripts/loopback_up.py" "$@"
    fi
}
