#!/bin/sh
# Make the certificates of a laboratory: an authority, the broker's, one per client.
# usage: make-certificates.sh FOLDER broker NAME…   names and addresses of the broker
#        make-certificates.sh FOLDER client NAME    a device, `archive`, a person
# The authority is made when it is not there yet; keep ca.key where nobody else comes.
set -eu
umask 077

usage() {
    sed -n '2,5s/^# //p' "$0" >&2
    exit 64
}

# Run a command; what it says matters only when it fails.
quietly() {
    if ! said=$("$@" 2>&1); then
        printf 'make-certificates: %s: %s\n' "$1 $2" "$said" >&2
        exit 1
    fi
}

[ $# -ge 3 ] || usage
command -v openssl >/dev/null || {
    echo "make-certificates: there is no openssl: apt install openssl" >&2
    exit 1
}
folder=$1 kind=$2
shift 2
DAYS=${DAYS:-825} # what clients accept at most; the authority lives ten years
mkdir -p "$folder"
cd "$folder"
if [ ! -f ca.key ]; then
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=Hemascope laboratory" -days 3650 -keyout ca.key -out ca.pem \
        -addext "basicConstraints=critical,CA:true,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
    chmod 644 ca.pem
fi

# Sign a certificate. usage: sign FILE COMMON_NAME EXTENSION…
sign() {
    file=$1 name=$2
    shift 2
    quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=$name" -keyout "$file.key" -out "$file.csr"
    {
        echo "basicConstraints=critical,CA:false"
        echo "keyUsage=critical,digitalSignature"
        echo "authorityKeyIdentifier=keyid"
        printf '%s\n' "$@"
    } >"$file.ext"
    quietly openssl x509 -req -in "$file.csr" -CA ca.pem -CAkey ca.key -CAcreateserial \
        -days "$DAYS" -extfile "$file.ext" -out "$file.pem"
    rm "$file.csr" "$file.ext"
    chmod 644 "$file.pem"
}

case $kind in
broker)
    names=""
    for name in "$@"; do
        case $name in
        *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) names="$names,IP:$name" ;;
        *) names="$names,DNS:$name" ;;
        esac
    done
    sign broker "$1" "extendedKeyUsage=serverAuth" "subjectAltName=${names#,}"
    ;;
client)
    case $1 in
    '' | ca | broker | -* | *[!a-z0-9-]*)
        echo "make-certificates: a client is named by a-z, 0-9 and -, not '$1'" >&2
        exit 64
        ;;
    esac
    sign "$1" "$1" "extendedKeyUsage=clientAuth"
    ;;
*) usage ;;
esac
