# shellcheck shell=sh
# Rebuilds initial file systems that are older than settings of modules: they load nouveau before /etc/modprobe.d is read.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

if command -v update-initramfs >/dev/null; then
    set -- update-initramfs -u -k all
else
    set -- dracut --regenerate-all --force
fi
# Those of a rescue and of kdump, and copies that dkms keeps, are never rebuilt.
older=$(find /boot -maxdepth 1 \( -name 'initrd.img-*' -o -name 'initramfs-*.img' \) ! -name '*-rescue-*' ! -name '*kdump.img' ! -name '*.old-dkms' ! -newer "$FIRSTLIGHT_SETTINGS" 2>/dev/null) || true
[ -n "$older" ] && command -v "$1" >/dev/null || exit 0
echo "firstlight-changed: $*"
[ "$FIRSTLIGHT_CHECK" = 0 ] || exit 0
if ! output=$("$@" 2>&1); then
    echo "firstlight-error: $*: $(echo "$output" | tail -n 3 | tr '\n' ' ')"
    echo "firstlight-hint: free disk space in /boot (df -h /boot), then run the command again"
    exit 1
fi
