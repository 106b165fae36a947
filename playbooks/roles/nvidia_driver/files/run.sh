# shellcheck shell=sh
# Loads the driver's modules where no other driver has the cards; says `firstlight-restart: WHY` where only a restart helps.
# Input: FIRSTLIGHT_VERSION, FIRSTLIGHT_CHECK.
set -eu
export LC_ALL=C

# Every card's answer, each once: a host with eight cards has eight lines. A driver that hangs lets nvidia-smi wait for ever.
running() {
    timeout -k 5 60 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | sort -u | tr '\n' ' '
}

[ "$(running)" = "$FIRSTLIGHT_VERSION " ] && exit 0
if [ ! -d "/lib/modules/$(uname -r)" ]; then
    echo "firstlight-restart: kernel $(uname -r) runs, which is not installed on this host and has no module"
    exit 0
fi
for module in nouveau nova_core; do
    if [ -d "/sys/module/$module" ]; then
        echo "firstlight-restart: $module has the cards"
        exit 0
    fi
done
if [ -d /sys/module/nvidia ]; then
    echo "firstlight-restart: driver $(cat /sys/module/nvidia/version 2>/dev/null || echo of another version) is loaded"
    exit 0
fi
if [ "$FIRSTLIGHT_CHECK" = 1 ]; then
    echo "firstlight-changed: modules loaded"
    exit 0
fi
said=$(modprobe nvidia 2>&1 && modprobe nvidia-uvm 2>&1) || true
if [ "$(running)" = "$FIRSTLIGHT_VERSION " ]; then
    echo "firstlight-changed: modules loaded"
    exit 0
fi
echo "firstlight-restart: its modules did not load now: ${said:-nvidia-smi answers $(running)}"
