#!/bin/sh
# Install the units of a device or of the lab server, as root. Twice does no harm.
# usage: install.sh device|archive|broker…
# Before: the program in /opt/hemascope (see README.md; a lab server needs less). Settings that are there stay.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
etc=/etc/hemascope

fail() {
    echo "install: $1" >&2
    exit 1
}

# Copy an example of settings, unless there are some. usage: settings NAME
settings() {
    if [ -e "$etc/$1" ]; then
        echo "install: $etc/$1 stays as it is"
        return
    fi
    install -m 644 "$here/../examples/$1" "$etc/$1"
    echo "install: $etc/$1 is an example: change it"
}

# Say what is still missing. usage: password FILE
password() {
    [ -e "$etc/credentials/$1" ] ||
        echo "install: $etc/credentials/$1 is missing: put the password there, mode 600"
}

install_units() {
    [ -x /opt/hemascope/bin/hemascope ] ||
        fail "/opt/hemascope/bin/hemascope is not there; see README.md for the program"
    install -D -m 644 "$here/hemascope.sysusers" /usr/lib/sysusers.d/hemascope.conf
    install -D -m 644 "$here/hemascope.tmpfiles" /usr/lib/tmpfiles.d/hemascope.conf
    install -D -m 644 "$here/README.md" /usr/share/doc/hemascope/README.md
    systemd-sysusers hemascope.conf
    systemd-tmpfiles --create hemascope.conf
    install -m 644 "$here/hemascope-failed@.service" /etc/systemd/system/
    for unit in "$@"; do
        install -m 644 "$here/$unit.service" /etc/systemd/system/
    done
    systemctl daemon-reload
    systemctl enable --quiet "$@"
    echo "install: ready; start with: systemctl start $*"
}

# A ledger from before there were two users belongs to another one.
share_ledger() {
    [ -d /var/lib/hemascope/ledger ] || return 0
    chown -R hemascope-run:hemascope /var/lib/hemascope
    chmod -R u+rwX,g+rwX,o= /var/lib/hemascope
}

install_broker() {
    [ -d /etc/mosquitto/conf.d ] || fail "no mosquitto here: apt install mosquitto"
    group=$(id -gn mosquitto) || fail "there is no user mosquitto"
    install -m 644 "$here/mosquitto/hemascope.conf" /etc/mosquitto/conf.d/
    if [ ! -e /etc/mosquitto/hemascope.acl ]; then
        install -m 640 -g "$group" "$here/mosquitto/hemascope.acl" /etc/mosquitto/
    fi
    if [ ! -e /etc/mosquitto/hemascope.passwd ]; then
        install -m 640 -g "$group" /dev/null /etc/mosquitto/hemascope.passwd
    fi
    for file in broker.pem broker.key; do
        [ -e "/etc/mosquitto/certs/$file" ] ||
            echo "install: /etc/mosquitto/certs/$file is missing: make-certificates.sh"
    done
    echo "install: ready; add users with mosquitto_passwd, then: systemctl restart mosquitto"
}

[ "$(id -u)" = 0 ] || fail "needs root"
[ $# -gt 0 ] || fail "usage: install.sh device|archive|broker…"
for part in "$@"; do
    case $part in
    device)
        install_units hemascope-run hemascope-publish
        share_ledger
        settings device.toml
        password password
        ;;
    archive)
        install_units hemascope-archive
        settings archive.toml
        password archive-password
        ;;
    broker) install_broker ;;
    *) fail "unknown part '$part'; expected device, archive or broker" ;;
    esac
done
