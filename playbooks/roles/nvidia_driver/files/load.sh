# shellcheck shell=sh
# Loads the driver's modules where no other driver has the GPUs. Restarts nothing: a line `firstlight-restart:` has the reason where
# only a restart of the host helps.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
kernel=$(uname -r)

restart() {
    echo "firstlight-restart: $1"
    exit 0
}

# Prints what the GPUs report, each version once. With a driver that hangs nvidia-smi never returns.
versions() {
    found=$(timeout 60 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || return 0
    echo "$found" | tr -d ' ' | sort -u
}

[ "$(versions)" != "$FIRSTLIGHT_VERSION" ] || exit 0
[ -d "/lib/modules/$kernel" ] || restart "kernel $kernel runs, which is not installed on this host and has no module"
for name in nouveau nova_core; do
    [ ! -d "/sys/module/$name" ] || restart "$name has the GPUs"
done
[ ! -d /sys/module/nvidia ] || restart "driver $(cat /sys/module/nvidia/version 2>/dev/null || echo 'of another version') is loaded"
if [ "$FIRSTLIGHT_CHECK" = 0 ]; then
    error=
    output=$(modprobe nvidia 2>&1 && modprobe nvidia-uvm 2>&1) || error=$(echo "$output" | tail -n 1)
    reported=$(versions)
    [ "$reported" = "$FIRSTLIGHT_VERSION" ] ||
        restart "its modules did not load now: ${error:-nvidia-smi reports $(echo "${reported:-no version}" | paste -s -d ' ' -)}"
fi
echo "firstlight-changed: modules loaded"
