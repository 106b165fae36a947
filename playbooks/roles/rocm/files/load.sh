# shellcheck shell=sh
# Loads amdgpu. Restarts nothing: a line `firstlight-restart:` has the reason where only a restart of the host helps.
# FIRSTLIGHT_OLDEST is the lowest version that may run; the kernel's own amdgpu has none.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

restart() {
    echo "firstlight-restart: $1"
    exit 0
}

# Prints the version of the loaded amdgpu where it is older than wanted.
older() {
    loaded=$(cat /sys/module/amdgpu/version 2>/dev/null) || return 0
    first=$(printf '%s\n' "$loaded" "$FIRSTLIGHT_OLDEST" | sort -V | head -n 1)
    [ "$first" = "$FIRSTLIGHT_OLDEST" ] || [ "$loaded" = "" ] || echo "$loaded"
}

# The kernel's own amdgpu makes /dev/kfd also where it is older than the GPUs and drives none.
idle() {
    [ -d /sys/module/amdgpu ] && [ ! -e /sys/module/amdgpu/version ] &&
        ! grep -qs '^simd_count [1-9]' /sys/class/kfd/kfd/topology/nodes/*/properties
}

runs() {
    [ -e /dev/kfd ] && [ -z "$(older)" ] && ! idle
}

! runs || exit 0
found=$(older)
[ -z "$found" ] || restart "driver $found is loaded"
[ ! -d /sys/module/amdgpu ] || restart "the loaded amdgpu offers no compute devices"
if [ "$FIRSTLIGHT_CHECK" = 0 ]; then
    error=
    output=$(modprobe amdgpu 2>&1) || error=$(echo "$output" | tail -n 1)
    runs || restart "its modules did not load now: ${error:-there is no /dev/kfd}"
fi
echo "firstlight-changed: modules loaded"
