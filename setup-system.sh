#!/bin/sh
# Install the Debian packages that are missing; say so where that is not possible.
# usage: setup-system.sh PACKAGE…   "a|b" takes whichever this system has
set -eu
export LC_ALL=C # we read what apt says

is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q "ok installed"
}

command -v apt-get >/dev/null || {
    echo "setup: no apt-get here; please have these or their like: $*" >&2
    exit 0
}
missing=""
for choice in "$@"; do
    is_there=""
    for package in $(echo "$choice" | tr '|' ' '); do
        if is_installed "$package"; then is_there=1; fi
    done
    [ -n "$is_there" ] || missing="$missing $choice"
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
$as_root apt-get update -qq || echo "setup: apt-get update failed, going on" >&2
wanted=""
for choice in $missing; do
    found=""
    for package in $(echo "$choice" | tr '|' ' '); do
        if [ -z "$found" ] &&
            apt-cache policy "$package" | grep -q "Candidate: [^(]"; then
            found=$package
        fi
    done
    [ -n "$found" ] || echo "setup: this system has no package $choice" >&2
    wanted="$wanted $found"
done
echo "setup: installing$wanted"
# shellcheck disable=SC2086 one word per package
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $wanted >/dev/null ||
    echo "setup: apt-get install failed; what needs$wanted is left out" >&2
