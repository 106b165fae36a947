# shellcheck shell=sh
# Has dkms build what it has not built: the driver's module for each installed kernel. Input: FIRSTLIGHT_VERSION, FIRSTLIGHT_CHECK.
set -eu
export LC_ALL=C
running=$(uname -r)

# By dkms, or brought by a package of its own.
has_module() {
    if command -v dkms >/dev/null 2>&1 &&
        dkms status 2>/dev/null | grep -Eq "^nvidia[a-z-]*[/,] *$FIRSTLIGHT_VERSION, $1, [^:]*: installed"; then
        return 0
    fi
    command -v modinfo >/dev/null 2>&1 && [ "$(modinfo -k "$1" -F version nvidia 2>/dev/null)" = "$FIRSTLIGHT_VERSION" ]
}

for folder in /lib/modules/*/kernel; do
    [ -d "$folder" ] || continue
    kernel=${folder#/lib/modules/}
    kernel=${kernel%/kernel}
    has_module "$kernel" && continue
    if [ "$FIRSTLIGHT_CHECK" = 1 ]; then
        # Without headers none can be built.
        [ ! -e "/lib/modules/$kernel/build" ] || echo "firstlight-changed: module for kernel $kernel"
        continue
    fi
    said=$(dkms autoinstall -k "$kernel" 2>&1) || true
    if has_module "$kernel"; then
        echo "firstlight-changed: module for kernel $kernel"
        continue
    fi
    log=/var/lib/dkms/nvidia/$FIRSTLIGHT_VERSION/build/make.log
    cause=$(grep -E 'error:|Error ' "$log" 2>/dev/null | head -n 2 | tr '\n' ' ')
    text="driver $FIRSTLIGHT_VERSION has no module for kernel $kernel: ${cause:-$(printf '%s\n' "$said" | tail -n 2 | tr '\n' ' ')}"
    if [ "$kernel" = "$running" ]; then
        echo "firstlight-error: $text"
        echo "firstlight-hint: $log on the host says why; often the kernel is newer than the driver knows: plan a newer driver, or start an older kernel"
        exit 1
    fi
    echo "firstlight-note: $text"
done
