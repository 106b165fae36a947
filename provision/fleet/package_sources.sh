# Prints whether apt's package sources answer: provision/fleet/package_sources.py. A host that reaches none waits 40 s: one file of each
# server is tried, and five servers.

# shellcheck shell=sh

set -u
command -v apt-get >/dev/null 2>&1 || { echo not-apt; exit 0; }
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
uris=$(apt-get update --print-uris 2>/dev/null | sed -n "s/^'\([^']*InRelease\)'.*/\1/p" | awk -F/ '!tried[$3]++ && ++servers <= 5')
[ -n "$uris" ] || { echo none; exit 0; }
for uri in $uris; do
    if timeout 8 /usr/lib/apt/apt-helper -o Acquire::Retries=0 -o Acquire::http::Timeout=5 -o Acquire::https::Timeout=5 \
        download-file "$uri" "$folder/InRelease" >/dev/null 2>&1; then
        echo answers; exit 0
    fi
done
echo silent
