#!/bin/sh
# Stop and remove the units, as root. What was recorded and set stays, and is named.
# usage: remove.sh device|archive|broker…
set -eu

fail() {
    echo "remove: $1" >&2
    exit 1
}

remove_units() {
    for unit in "$@"; do
        systemctl disable --now --quiet "$unit" 2>/dev/null || true
        systemctl reset-failed --quiet "$unit" 2>/dev/null || true
        rm -rf "/etc/systemd/system/$unit.service" "/etc/systemd/system/$unit.service.d"
    done
    set -- /etc/systemd/system/hemascope-*.service
    if [ "$*" = "/etc/systemd/system/hemascope-failed@.service" ]; then # the last one
        rm -rf "$1" "$1.d" /usr/lib/sysusers.d/hemascope.conf \
            /usr/lib/tmpfiles.d/hemascope.conf /usr/share/doc/hemascope
    fi
    systemctl daemon-reload
}

[ "$(id -u)" = 0 ] || fail "needs root"
[ $# -gt 0 ] || fail "usage: remove.sh device|archive|broker…"
for part in "$@"; do
    case $part in
    device) remove_units hemascope-publish hemascope-run ;;
    archive) remove_units hemascope-archive ;;
    broker)
        # Under whichever name: without our access list a listener would let all do all.
        grep -ls '^# /etc/mosquitto/conf.d/hemascope' /etc/mosquitto/conf.d/*.conf |
            xargs -r rm -f --
        echo "remove: the broker forgets our listeners with: systemctl restart mosquitto"
        ;;
    *) fail "unknown part '$part'; expected device, archive or broker" ;;
    esac
done
for place in /var/lib/hemascope /var/lib/hemascope-archive /etc/hemascope \
    /opt/hemascope /etc/mosquitto/hemascope.acl /etc/mosquitto/hemascope.passwd; do
    [ ! -e "$place" ] || echo "remove: $place stays"
done
echo "remove: rows that the archive has not acknowledged are in /var/lib/hemascope alone"
