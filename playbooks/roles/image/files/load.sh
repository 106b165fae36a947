# shellcheck shell=sh
# Loads an image into podman, and notes that it came with us. Input: FIRSTLIGHT_* variables; output: a line `firstlight-changed:`.
set -eu

fail() {
    echo "firstlight-error: $1"
    echo "firstlight-hint: $2"
    exit 1
}

generator=/usr/libexec/podman/quadlet
[ -x "$generator" ] || generator=/usr/lib/podman/quadlet
# In check mode podman may be among the packages that were only announced.
[ -x "$generator" ] || { [ "$FIRSTLIGHT_CHECK" = 1 ] && ! command -v podman >/dev/null; } ||
    fail "$(podman --version 2>/dev/null || echo "no podman is here, which") makes no units of containers" "install podman 4.7 or newer, or set firstlight_runtime to venv"

if ! podman image exists "$FIRSTLIGHT_IMAGE" 2>/dev/null; then
    echo "firstlight-changed: image $FIRSTLIGHT_IMAGE"
    [ "$FIRSTLIGHT_CHECK" = 0 ] || exit 0
    # Before it is loaded: what is cut off is removed by uninstall, too.
    grep -qsx "$FIRSTLIGHT_IMAGE" "$FIRSTLIGHT_PREFIX/etc/images" || echo "$FIRSTLIGHT_IMAGE" >>"$FIRSTLIGHT_PREFIX/etc/images"
    said=$(podman load --quiet --input "$FIRSTLIGHT_ARCHIVE" 2>&1) || fail "podman does not load the image: $(echo "$said" | tail -n 1)" "try it on the host: podman load --input $FIRSTLIGHT_ARCHIVE"
    podman image exists "$FIRSTLIGHT_IMAGE" 2>/dev/null || fail "podman loaded another image than $FIRSTLIGHT_IMAGE: $(echo "$said" | tail -n 1)" "write the file again: podman save --format oci-archive -o FILE IMAGE"
fi
[ "$FIRSTLIGHT_CHECK" = 1 ] || rm -f "$FIRSTLIGHT_ARCHIVE"
