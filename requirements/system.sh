#!/bin/sh
# What pip cannot install: checks it, installs Debian's packages when root, otherwise says which.
# `system.sh tests` looks for what only the tests need, as well.
set -eu
python=${PYTHON:-python3}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=none
case $version in
none) echo "hocket needs Python 3.11 or newer, and '$python' does not run; install one, or: make install PYTHON=/path/to/python3.11" >&2; exit 1 ;;
2.* | 3.[0-9] | 3.10) echo "hocket needs Python 3.11 or newer, and '$python' is $version; install one, or: make install PYTHON=/path/to/python3.11" >&2; exit 1 ;;
esac

missing=
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ "$(uname -s)" = Linux ]; then # the embedded engine's threads
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libgomp\.so\.1' || missing="$missing libgomp1"
fi
if [ "${1:-}" = tests ]; then # the official npm client is run against the gateway
    command -v node >/dev/null || missing="$missing nodejs"
    command -v npm >/dev/null || missing="$missing npm"
    # the history is tested on a real PostgreSQL, which the tests start; Debian keeps its programs off the path
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    case $missing in
    *postgresql*) # no server of the system's own is wanted
        apt-get install -y -qq --no-install-recommends postgresql-common >/dev/null
        sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
        ;;
    esac
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "hocket needs system packages (Debian's names):$missing; install them, for example: sudo apt-get install$missing" >&2
    exit 1
fi
