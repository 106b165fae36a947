# shellcheck shell=sh
# Has dkms build what it has not built: the driver's module for each installed kernel; says who signed it. The kernel that runs may be
# another one, given from outside: then modules are built for those that are installed. Input: FIRSTLIGHT_VERSION, FIRSTLIGHT_CHECK.
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

# Debian's files are called nvidia-current*.
signer() {
    for name in nvidia nvidia-current nvidia-current-open; do
        if [ "$(modinfo -k "$1" -F version "$name" 2>/dev/null)" = "$FIRSTLIGHT_VERSION" ]; then
            signed=$(modinfo -k "$1" -F signer "$name" 2>/dev/null)
            echo "${signed:+, signed by $signed}"
            [ -n "$signed" ] || echo ", unsigned"
            return 0
        fi
    done
}

set -- /lib/modules/*/kernel
if [ ! -d "$1" ]; then
    echo "firstlight-error: kernel $running runs, and no kernel is installed on this host: no module can be built"
    echo "firstlight-hint: its kernel is given from outside, as to a container: the driver is that of the machine below; or install the distribution's kernel and start it"
    exit 1
fi
[ -d "/lib/modules/$running" ] ||
    echo "firstlight-note: kernel $running runs and is not installed on this host: modules are built for those that are, and load once one of them runs"

for folder in "$@"; do
    [ -d "$folder" ] || continue
    kernel=${folder#/lib/modules/}
    kernel=${kernel%/kernel}
    if has_module "$kernel"; then
        echo "firstlight-note: module for kernel $kernel$(signer "$kernel")"
        continue
    fi
    if [ "$FIRSTLIGHT_CHECK" = 1 ]; then
        # Without headers none can be built.
        [ ! -e "/lib/modules/$kernel/build" ] || echo "firstlight-changed: module for kernel $kernel"
        continue
    fi
    said=$(dkms autoinstall -k "$kernel" 2>&1) || true
    if has_module "$kernel"; then
        echo "firstlight-changed: module for kernel $kernel$(signer "$kernel")"
        continue
    fi
    log=$(find /var/lib/dkms/nvidia*/"$FIRSTLIGHT_VERSION"/build -name make.log 2>/dev/null | head -n 1)
    cause=$(grep -E '[: ]error: ' "$log" 2>/dev/null | head -n 2 | tr '\n' ' ')
    text="driver $FIRSTLIGHT_VERSION has no module for kernel $kernel: ${cause:-$(printf '%s\n' "$said" | tail -n 2 | tr '\n' ' ')}"
    if [ "$kernel" = "$running" ]; then
        echo "firstlight-error: $text"
        echo "firstlight-hint: ${log:-dkms autoinstall -k $kernel} on the host says why; often the kernel is newer than the driver knows: plan a newer driver, or start an older kernel"
        exit 1
    fi
    echo "firstlight-note: $text"
done
