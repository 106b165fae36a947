# shellcheck shell=sh
# Loads amdgpu where it is not; says `firstlight-restart: WHY` where only a restart helps. Input: FIRSTLIGHT_CHECK.
set -eu
[ -e /dev/kfd ] && exit 0
if [ -d /sys/module/amdgpu ]; then
    echo "firstlight-restart: the loaded amdgpu offers no compute devices"
    exit 0
fi
if [ "$FIRSTLIGHT_CHECK" = 1 ]; then
    echo "firstlight-changed: module loaded"
    exit 0
fi
said=$(modprobe amdgpu 2>&1) || true
if [ -e /dev/kfd ]; then
    echo "firstlight-changed: module loaded"
    exit 0
fi
echo "firstlight-restart: its module did not load now${said:+: $said}"
