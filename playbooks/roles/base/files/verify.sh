# shellcheck shell=sh
# What base promised, tried: the account that serves can enter the prefix and write where it must.
set -eu

fail() {
    echo "firstlight-error: $1" >&2
    echo "firstlight-hint: $2" >&2
    exit 1
}

as_owner() {
    if [ "$FIRSTLIGHT_ROOT" = 1 ] && command -v runuser >/dev/null 2>&1; then
        runuser -u "$FIRSTLIGHT_OWNER" -- "$@"
    elif [ "$FIRSTLIGHT_ROOT" = 1 ]; then
        setpriv --reuid "$FIRSTLIGHT_OWNER" --regid "$(id -g "$FIRSTLIGHT_OWNER")" --init-groups "$@"
    else
        "$@"
    fi
}

for folder in run cache home; do
    path=$FIRSTLIGHT_PREFIX/$folder
    # shellcheck disable=SC2016 # $1 is for the inner shell
    as_owner sh -c ': > "$1/.written" && rm -f "$1/.written"' sh "$path" 2>/dev/null ||
        fail "account $FIRSTLIGHT_OWNER cannot write in $path" \
            "every folder above $FIRSTLIGHT_PREFIX must let that account through (mode o+x), and its file system must be writable"
done
