#!/bin/sh
# Prove the device part alone, without torch, on the Pythons of JetPack 6 and 7.
# usage: device-test.sh [--setup] PYTHON…   those that are not installed are left out, loudly
#
# With --setup, install what the tests need and run none.
#
# The versions are those of requirements.lock, or of the file that LOCK names.
set -eu
lock=${LOCK:-requirements.lock}
only_setup=
if [ "$1" = --setup ]; then
    only_setup=yes
    shift
fi

# Print a working interpreter of that name: from the PATH, or one that pyenv keeps.
find_python() {
    for candidate in "$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/${1#python}".*/bin/"$1"; do
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

tested=0
for name in "$@"; do
    python=$(find_python "$name")
    if [ -z "$python" ]; then
        echo "device-test: $name is not installed, left out" >&2
        continue
    fi
    venv="${VENV:-.venv}-device-$name"
    if ! [ "$venv/.ready" -nt pyproject.toml ] || ! [ "$venv/.ready" -nt "$lock" ]; then
        "$python" -m venv "$venv"
        # Python compiles what it imports; most of this it never does.
        pip="$venv/bin/pip install --quiet --disable-pip-version-check --no-compile"
        pip="$pip --constraint $lock"
        $pip --upgrade pip
        $pip --build-constraint "$lock" --editable ".[demo,device-test]"
        touch "$venv/.ready"
    fi
    tested=$((tested + 1))
    [ -z "$only_setup" ] || continue
    if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        echo "device-test: torch is installed in $venv, it should not be" >&2
        exit 1
    fi
    echo "device-test: $("$venv/bin/python" --version)"
    OMP_NUM_THREADS=1 "$venv/bin/pytest" -q -n 4 --dist loadfile --no-loadscope-reorder \
        tests/edge tests/flow/test_demo.py
done
[ "$tested" -gt 0 ] || echo "device-test: none of $* is installed, nothing proved" >&2
