# shellcheck shell=sh
# Rebuilds the initial file systems that are older than our blacklist: they load nouveau before it is read. Input: FIRSTLIGHT_CHECK.
set -eu
export LC_ALL=C
blacklist=/etc/modprobe.d/firstlight-nvidia.conf

stale() {
    for image in /boot/initrd.img-* /boot/initramfs-*.img; do
        if [ -e "$image" ] && [ -n "$(find "$blacklist" -newer "$image")" ]; then
            return 0
        fi
    done
    return 1
}

[ -e "$blacklist" ] && stale || exit 0
if command -v update-initramfs >/dev/null 2>&1; then
    set -- update-initramfs -u -k all
elif command -v dracut >/dev/null 2>&1; then
    set -- dracut --regenerate-all --force
else
    exit 0
fi
echo "firstlight-changed: $*"
[ "$FIRSTLIGHT_CHECK" = 0 ] || exit 0
if ! said=$("$@" 2>&1); then
    echo "firstlight-error: $*: $(printf '%s\n' "$said" | tail -n 3 | tr '\n' ' ')"
    echo "firstlight-hint: free disk space in /boot (df -h /boot), then run the command again"
    exit 1
fi
