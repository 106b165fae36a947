# shellcheck shell=sh
# Loads amdgpu where it is not; says `firstlight-restart: WHY` where only a restart helps. Input: FIRSTLIGHT_CHECK.
set -u
[ -e /dev/kfd ] && exit 0
if [ -d /sys/module/amdgpu ]; then
    echo "firstlight-restart: the loaded amdgpu offers no compute devices"
    exit 0
fi
echo "firstlight-changed: module loaded"
[ "$FIRSTLIGHT_CHECK" = 0 ] || exit 0
said=$(modprobe amdgpu 2>&1) || true
[ -e /dev/kfd ] || echo "firstlight-restart: its module did not load now${said:+: $said}"
