#!/usr/bin/env bash
# Prepares a host for training: creates a virtual environment with this checkout and mounts buckets.
#
#     bash launch/setup_host.sh [--venv=.venv] [--extras=tpu,gcs] [--mount=BUCKET:/PATH]...
#
# Needs Python 3.11 or newer, or pip of any Python 3, which then installs a newer one. Finished steps
# are skipped when it runs again. Data sets in ArrayRecord format cannot be read from gs://, so their
# bucket is mounted with gcsfuse. If gcsfuse is missing, version GCSFUSE_VERSION is installed (Debian
# or Ubuntu, as root or with sudo).
set -euo pipefail

readonly gcsfuse_version=${GCSFUSE_VERSION:-2.7.0}

die() {
    echo "error: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# After boot, machines run updates that hold this lock for minutes.
apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install \
        --yes --quiet --no-install-recommends "$@"
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

make_venv() {
    local venv=$1 python
    for python in python3 python3.13 python3.12 python3.11; do
        is_new_enough "$python" || continue
        can_make_venv "$python" || apt_install "$python-venv" # Debian and Ubuntu package it separately
        "$python" -m venv "$venv"
        return
    done
    echo "Python 3.11 or newer is missing: installing it with uv"
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv \
        || die "Python 3.11 or newer is missing, and so is pip of an older one"
    python3 -m uv venv --quiet --seed --python 3.12 "$venv"
}

install_package() {
    local venv=$1 extras=$2 fingerprint
    # Identifies the installation: setup.py, the extras and the folder of the checkout.
    fingerprint="$(cksum <setup.py) $extras $PWD"
    if [ -f "$venv/.installed-for" ] && [ "$(cat "$venv/.installed-for")" = "$fingerprint" ]; then
        echo "$venv: up to date"
        return
    fi
    [ -x "$venv/bin/python" ] || make_venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
    echo "$fingerprint" >"$venv/.installed-for"
}

install_gcsfuse() {
    command -v gcsfuse >/dev/null && return
    local package
    package=$(mktemp --suffix=.deb)
    curl --fail --silent --show-error --location --retry 5 --output "$package" \
        "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$gcsfuse_version/gcsfuse_${gcsfuse_version}_$(dpkg --print-architecture).deb"
    chmod a+r "$package" # apt reads it as another user
    apt_install "$package"
    rm -f "$package"
}

mount_bucket() {
    local bucket=${1%%:*} path=${1#*:}
    if mountpoint --quiet "$path"; then
        echo "$path: mounted"
        return
    fi
    install_gcsfuse
    as_root mkdir -p "$path"
    as_root chown "$(id -u):$(id -g)" "$path"
    # Without implicit directories, folders without an object of their own are invisible.
    gcsfuse --implicit-dirs -o ro "$bucket" "$path"
}

venv=.venv
extras=
mounts=()
for argument in "$@"; do
    case $argument in
        --venv=?*) venv=${argument#*=} ;;
        --extras=*) extras=${argument#*=} ;;
        --mount=?*:/?*) mounts+=("${argument#*=}") ;;
        --mount=*) die "$argument is not of the form --mount=BUCKET:/PATH" ;;
        *) die "unknown argument $argument; arguments: --venv=, --extras=, --mount=BUCKET:/PATH" ;;
    esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
install_package "$venv" "$extras"
for mount in "${mounts[@]+"${mounts[@]}"}"; do
    mount_bucket "$mount"
done
