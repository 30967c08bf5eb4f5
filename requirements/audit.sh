#!/bin/sh
# Known vulnerabilities (osv.dev) of what the lock installs; fails if there is one. Once a day: it asks for each package.
# Without a network it says so and passes: what was checked in the morning is not worse for a train ride.
set -eu
lock=$1 tool=$2 stamp=$3
if [ -e "$stamp" ] && [ ! "$lock" -nt "$stamp" ] && [ -z "$(find "$stamp" -mmin +1440)" ]; then exit 0; fi
[ -x "$tool" ] || { echo "dependencies not audited: $tool is not installed" >&2; exit 0; }

out=$(mktemp)
trap 'rm -f "$out"' EXIT
# pip-audit fails alike for a vulnerability and for want of an answer: only the first leaves a report
if "$tool" -r "$lock" --disable-pip --require-hashes --vulnerability-service osv --progress-spinner off --timeout 10 \
    --format columns --output "$out" >/dev/null 2>&1; then
    touch "$stamp"
elif [ -s "$out" ]; then
    cat "$out"
    echo "the lock holds known vulnerabilities: 'make lock' takes newer versions" >&2
    exit 1
else
    echo 'dependencies not audited: the advisories at osv.dev cannot be reached' >&2
fi
