# shellcheck shell=sh
# Splits GPUs in slices (MIG). Input: FIRSTLIGHT_SLICES such as `0=3g.20gb,3g.20gb 1=`, by default the host's file `layout`: a GPU without
# profiles gets MIG off. FIRSTLIGHT_CHECK=1 changes nothing. Output: a line `firstlight-changed:` for each GPU that is not as wanted.
# Source: docs.nvidia.com/datacenter/tesla/mig-user-guide
set -eu

folder=${FIRSTLIGHT_FOLDER:-/etc/firstlight-mig}
[ -n "${FIRSTLIGHT_SLICES+set}" ] || FIRSTLIGHT_SLICES=$(cat "$folder/layout")

fail() {
    echo "firstlight-error: $1"
    echo "firstlight-hint: $2"
    exit 1
}

# profiles GPU: print the profiles of its slices.
profiles() {
    nvidia-smi -L | awk -v gpu="GPU $1:" '/^GPU / { own = index($0, gpu) == 1 } own && $1 == "MIG" { print $2 }' | sort
}

is_on() { [ "$(nvidia-smi -i "$1" --query-gpu=mig.mode.current --format=csv,noheader)" = Enabled ]; }

# is_as GPU PROFILES: whether MIG is on for it, and it has these slices; without profiles, whether MIG is off.
is_as() {
    if [ -n "$2" ]; then is_on "$1" || return 1; elif is_on "$1"; then return 1; fi
    [ "$(profiles "$1")" = "$(echo "$2" | tr ',' '\n' | sort)" ]
}

users() {
    nvidia-smi -i "$1" -q -x | sed -n 's|.*<pid>\(.*\)</pid>.*|pid \1|p; s|.*<process_name>\(.*\)</process_name>.*|(\1)|p' | paste -sd ' ' -
}

for wanted in $FIRSTLIGHT_SLICES; do
    gpu=${wanted%%=*} wanted=${wanted#*=}
    if is_as "$gpu" "$wanted"; then continue; fi
    used=$(users "$gpu")
    [ -z "$used" ] || fail "GPU $gpu is in use, so its slices are not changed: $used" "end these processes, or stop their services (systemctl stop), then run the same command again"
    echo "firstlight-changed: GPU $gpu: ${wanted:-MIG off}"
    [ "${FIRSTLIGHT_CHECK:-0}" = 0 ] || continue
    echo "$gpu" >>"$folder/made"
    said=''
    if is_on "$gpu"; then
        # They fail where there are none.
        nvidia-smi mig -dci -i "$gpu" >/dev/null 2>&1 || true
        nvidia-smi mig -dgi -i "$gpu" >/dev/null 2>&1 || true
        [ -n "$wanted" ] || said=$(nvidia-smi -i "$gpu" -mig 0 2>&1) || true
    elif [ -n "$wanted" ]; then
        said=$(nvidia-smi -i "$gpu" -mig 1 2>&1) || true
    fi
    if [ -n "$wanted" ] && is_on "$gpu"; then said=$(nvidia-smi mig -i "$gpu" -cgi "$wanted" -C 2>&1) || true; fi
    is_as "$gpu" "$wanted" || fail "GPU $gpu is not split as wanted (${wanted:-MIG off}): $(echo "$said" | tail -n 1)" "nvidia-smi mig -lgip lists its profiles; where a change is pending, stop what holds the GPU (nvidia-dcgm), or restart the host"
    # The container toolkit's service does not see such a change. At boot it follows.
    systemctl --no-block restart nvidia-cdi-refresh.service >/dev/null 2>&1 || true
done
