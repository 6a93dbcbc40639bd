#!/bin/sh
# Boot a container and let the units start, be killed, hang, fill a disk and stop in it.
# usage: boot-test.sh PYTHON [WHICH]   an interpreter that has what the package needs and
#        pytest; WHICH tests, as for pytest -k: the first one and those it names
# The container's system is made once, in HEMASCOPE_BOOT_CACHE; a boot leaves no trace
# in it. The report of the last boot lies beside it.
set -eu
export LC_ALL=C
source=$(cd "$(dirname "$0")/.." && pwd)
python=${1:?usage: boot-test.sh PYTHON [WHICH]}
which=${2:+test_all_units_start or $2}
cache=${HEMASCOPE_BOOT_CACHE:-/var/cache/hemascope-boot}

skip() {
    echo "boot-test: skipped, nothing proved: $1" >&2
    exit 0
}

[ "$(id -u)" = 0 ] || skip "booting a container needs root"
for program in debootstrap systemd-nspawn; do
    command -v $program >/dev/null ||
        skip "$program is not there: apt install debootstrap systemd-container"
done
# shellcheck source=/dev/null
. /etc/os-release
system=$cache/${VERSION_CODENAME:?this system has no code name}

# Make the container's system: what a lab server has before Hemascope is installed.
make_system() {
    glib=libglib2.0-0
    if dpkg-query -W libglib2.0-0t64 >/dev/null 2>&1; then glib=libglib2.0-0t64; fi
    components=main
    if [ "$ID" = ubuntu ]; then components=main,universe; fi
    echo "boot-test: making a system in $system, this takes some minutes" >&2
    rm -rf "$system.new"
    mkdir -p "$cache"
    debootstrap --variant=minbase --components=$components \
        --include=systemd,systemd-sysv,dbus,python3,mosquitto,openssl,libgl1,$glib \
        "$VERSION_CODENAME" "$system.new" >"$cache/debootstrap.log" 2>&1 || {
        echo "boot-test: debootstrap failed, see $cache/debootstrap.log" >&2
        exit 1
    }
    mv "$system.new" "$system"
}

[ -d "$system" ] || make_system
report=$cache/report
rm -rf "$report"
mkdir -p "$report"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
# The package as it is installed, the tests as they stand here.
mkdir "$stage/source"
tar -C "$source" --exclude=.git --exclude='.venv*' --exclude=build -cf - . |
    tar -C "$stage/source" -xf -
"$python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$stage/site" "$stage/source" >"$report/pip.txt" 2>&1
libraries=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
base=$("$python" -c 'import sys; print(sys.base_prefix)')
name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
synchronised=$(PYTHONPATH=$source "$python" -c \
    'from edge.clock import is_synchronised; print(is_synchronised())')
if [ "$base" = /usr ]; then
    python_inside=/usr/bin/$name # of the same release, so the same
    set --
else
    python_inside=/opt/python/bin/$name
    set -- --bind-ro="$base:/opt/python"
fi

cat >"$stage/inside.sh" <<END
#!/bin/sh
echo 127.0.0.1 localhost >/etc/hosts
echo /opt/python/lib >/etc/ld.so.conf.d/python.conf && ldconfig
$python_inside -m venv --without-pip /opt/hemascope
printf '/opt/site\n/opt/libraries\n' \
    >/opt/hemascope/lib/$name/site-packages/hemascope.pth
printf '#!/opt/hemascope/bin/python\nfrom edge.cli.main import main\nmain()\n' \
    >/opt/hemascope/bin/hemascope
chmod 755 /opt/hemascope/bin/hemascope
cd /opt/source
/opt/hemascope/bin/python -m pytest -v -p no:cacheprovider -p no:hypothesispytest --durations=0 -rP --maxfail=4 \
    -k "$which" tests/systemd/test_booted.py >/report/tests.txt 2>&1
echo \$? >/report/code
journalctl --no-pager >/report/journal.txt
systemctl --no-block poweroff
END
cat >"$stage/boot-test.service" <<END
[Unit]
Description=Hemascope: the tests of a booted system
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh /opt/inside.sh
Environment=HEMASCOPE_BOOTED=1 HEMASCOPE_HOST_SYNCHRONISED=$synchronised
Environment=HEMASCOPE_HOST_BOOT=$(cat /proc/sys/kernel/random/boot_id)
Environment=PYTHONPATH=/opt/source PYTHONDONTWRITEBYTECODE=1
TimeoutStartSec=15min
END
printf '[Unit]\nWants=boot-test.service\n' >"$stage/wanted.conf"
units=/etc/systemd/system
# adjtimex: to ask whether the clock is synchronised, as outside a container.
timeout 900 systemd-nspawn --boot --register=no --keep-unit \
    --directory="$system" --volatile=overlay --private-network --console=read-only \
    --system-call-filter=adjtimex \
    --bind-ro="$stage/source:/opt/source" --bind-ro="$stage/site:/opt/site" \
    --bind-ro="$libraries:/opt/libraries" --bind-ro="$stage/inside.sh:/opt/inside.sh" \
    --bind-ro="$stage/boot-test.service:$units/boot-test.service" \
    --bind-ro="$stage/wanted.conf:$units/multi-user.target.d/boot-test.conf" \
    --bind="$report:/report" "$@" >"$report/console.txt" 2>&1 </dev/null || true
[ -e "$report/tests.txt" ] || {
    echo "boot-test: the container did not come up, see $report/console.txt" >&2
    exit 1
}
cat "$report/tests.txt"
exit "$(cat "$report/code" 2>/dev/null || echo 1)"
