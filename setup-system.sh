#!/bin/sh
# Install the Debian packages that are missing; say so where that is not possible.
# usage: setup-system.sh PACKAGE…
set -eu

is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q "ok installed"
}

command -v apt-get >/dev/null || {
    echo "setup: no apt-get here; please have these or their like: $*" >&2
    exit 0
}
missing=""
for package in "$@"; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
as_root=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "setup: not root and no sudo; please have these installed:$missing" >&2
        exit 0
    }
    as_root="sudo"
fi
$as_root apt-get update -qq
wanted=""
for package in $missing; do
    if apt-cache policy "$package" | grep -q "Candidate: [^(]"; then
        wanted="$wanted $package"
    else
        echo "setup: this system has no package $package, its tests are left out" >&2
    fi
done
echo "setup: installing$wanted"
# shellcheck disable=SC2086 one word per package
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $wanted >/dev/null
