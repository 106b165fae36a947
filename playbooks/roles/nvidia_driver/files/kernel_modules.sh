# shellcheck shell=sh
# Lets dkms build the driver's module for every installed kernel. One for which none can be built is an error where it runs, else
# a note. The running kernel may be provided from outside, as in a container or a VM: then modules are built for the installed ones.
# Output: lines `firstlight-changed:` and `firstlight-note:`.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
version=$FIRSTLIGHT_VERSION
running=$(uname -r)

fail() {
    echo "firstlight-error: $1"
    echo "firstlight-hint: $2"
    exit 1
}

# Prints a field of a kernel's module of some name.
info() {
    modinfo -k "$1" -F "$2" "$3" 2>/dev/null || true
}

# By dkms (its releases write `nvidia/VERSION, KERNEL` or `nvidia, VERSION, KERNEL`) or by a package.
has_module() {
    dkms status 2>/dev/null | sed 's|/|, |' | grep '^nvidia' | grep -F ", $version, $1, " | grep -q ': installed' ||
        [ "$(info "$1" version nvidia)" = "$version" ]
}

# Prints who signed the module, as the end of a sentence; nothing where modinfo knows no such module.
signer() {
    for name in nvidia nvidia-current nvidia-current-open; do # the latter two are Debian's
        [ "$(info "$1" version "$name")" = "$version" ] || continue
        by=$(info "$1" signer "$name")
        [ -n "$by" ] && echo ", signed by $by" || echo ", unsigned"
        return
    done
}

build() {
    output=$(dkms autoinstall -k "$1" 2>&1) || true
    if has_module "$1"; then
        echo "firstlight-changed: module for kernel $1$(signer "$1")"
        return
    fi
    log=$(find /var/lib/dkms/nvidia*/"$version"/build -name make.log 2>/dev/null | head -n 1)
    cause=$([ -z "$log" ] || grep '[: ]error: ' "$log" | head -n 2)
    command -v dkms >/dev/null || cause="dkms is not installed"
    text="driver $version has no module for kernel $1: $(echo "${cause:-$(echo "$output" | tail -n 2)}" | sed 's/^ *//' | paste -s -d ' ' -)"
    [ "$1" != "$running" ] || fail "$text" \
        "see ${log:-dkms autoinstall -k $1} on the host; often the kernel is newer than the driver supports: plan a newer driver, or start an older kernel"
    echo "firstlight-note: $text"
}

kernels=$(find /lib/modules/*/kernel -maxdepth 0 -type d 2>/dev/null | cut -d / -f 4 | sort)
[ -n "$kernels" ] || fail "kernel $running runs, and no kernel is installed on this host: no module can be built" \
    "its kernel is provided from outside, as in a container: the driver is that of the machine below; or install the distribution's kernel and start it"
[ -d "/lib/modules/$running" ] ||
    echo "firstlight-note: kernel $running runs and is not installed on this host: modules are built for the installed kernels, and load once one of them runs"
for kernel in $kernels; do
    if has_module "$kernel"; then
        echo "firstlight-note: module for kernel $kernel$(signer "$kernel")"
    elif [ "$FIRSTLIGHT_CHECK" = 0 ]; then
        build "$kernel"
    elif [ -e "/lib/modules/$kernel/build" ]; then # without headers none can be built
        echo "firstlight-changed: module for kernel $kernel"
    fi
done
