# shellcheck shell=sh
# Removes what an installation brought, in an order that a second call can take up: the marker that says the prefix is
# ours goes last. Prints `firstlight-changed:` for what was removed and `firstlight-left:` for what stays.
set -eu
# Of Ubuntu's needrestart: list services that use an older library, restart none.
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C

prefix=$FIRSTLIGHT_PREFIX
# What an installation has at its top.
made='bin|cache|current|envs|etc|exporter|gateway(-address)?|health-agent|home|incoming|logs|models|monitoring|previous|python|releases|run|verify'
made="$made|firewall(-start)?|lock[a-z.-]*|state\\.[a-z0-9]+|quarantine\\.json|(installed-packages|created-users)\\.txt|\\.firstlight.*"

fail() {
    echo "firstlight-error: $1"
    echo "firstlight-hint: $2"
    exit 1
}

removed() { echo "firstlight-changed: $1"; }
left() { echo "firstlight-left: $1"; }
lines() { cat "$1" 2>/dev/null || true; }

# Prefixes that units name, in the folders of the system and of ours.
named_by_units() {
    for units in /etc/systemd/system /etc/containers/systemd $(lines "$prefix/etc/units" | sed 's#/[^/]*$##' | sort -u); do
        # `firstlight-*` matches folders too (NAME.wants), at which sed would end.
        { cat "$units"/firstlight-* 2>/dev/null || true; } |
            sed -nE 's#^[^#]*[= ](/[^ ]*)/(etc/service\.env|gateway/current/|exporter/).*#\1#p'
    done | sort -u
}

# Other installations of this machine: PREFIX@SERVICE, PREFIX of a service that has no name, and, after a move, those at another prefix.
others() {
    for folder in "${prefix%@*}" "${prefix%@*}"@* $(named_by_units); do
        if [ "$(readlink -f "$folder")" != "$real" ] && [ -f "$folder/.firstlight" ]; then
            echo "$folder"
        fi
    done
}

# A unit of one of those may have taken the place of ours.
is_of_others() {
    ! grep -qsF -e "=$prefix/" -e " $prefix/" "$1" || return 1
    for other in $(others); do
        ! grep -qsF -e "=$other/" -e " $other/" "$1" || return 0
    done
    return 1
}

# What other services use as well stays, and is theirs to remove.
hand_on() {
    other=$(others | head -n 1)
    [ -n "$other" ] || return 0
    for name in installed-packages.txt created-users.txt; do
        [ -s "$prefix/$name" ] || continue
        lines "$other/$name" | cat - "$prefix/$name" | sort -u >"$other/$name.new"
        mv "$other/$name.new" "$other/$name"
        left "$(lines "$prefix/$name" | tr '\n' ' '| sed 's/ $//'), which $other uses too"
        rm -f "$prefix/$name"
    done
}

# A run that ended before it claimed the prefix has left its note of who holds the host, and no more.
has_only_locks() {
    found=$(find "$prefix/" -mindepth 1 -maxdepth 1 -exec basename {} \;)
    [ -n "$found" ] && ! echo "$found" | grep -qv '^lock'
}

# A marker that is empty was lost by its disk before it was written.
has_marker() {
    [ -f "$prefix/.firstlight" ] || return 1
    case $(lines "$prefix/.firstlight") in "" | "firstlight 1") ;; *) return 1 ;; esac
}

check_prefix() {
    # The prefix may be a link to the folder.
    real=$(readlink -f "$prefix" || echo "$prefix")
    if [ -L "$prefix" ] && [ "$real" = "$(readlink -f "${HOME:-/}")" ]; then
        fail "prefix $prefix leads to a home folder, and is not removed" "give the prefix that was installed"
    fi
    case $prefix in
        *..* | *//* | */ | [!/]*) fail "prefix $prefix is not a plain absolute path" "give the prefix that was installed" ;;
    esac
    [ "$prefix" != "${HOME:-}" ] || fail "prefix $prefix is a home folder, and is not removed" "give the prefix that was installed"
    if [ -e "$prefix" ] && ! has_marker && ! has_only_locks; then
        fail "prefix $prefix is not an installation of this product (no marker .firstlight in it), and is not removed" "give the prefix that was installed"
    fi
}

# Of a unit that is no more they would change the next one of its name. podman reads those beside its file, systemd those of the unit that
# it makes.
remove_drop_ins() {
    file=$(basename "$1")
    case $1 in
        /etc/*) set -- "$(dirname "$1")" /etc/systemd/system /etc/systemd/system.control /run/systemd/system /run/systemd/system.control ;;
        *) set -- "$(dirname "$1")" "$(dirname "$1").control" "$XDG_RUNTIME_DIR/systemd/user" "$XDG_RUNTIME_DIR/systemd/user.control" ;;
    esac
    for folder in "$@"; do
        for name in "$file" "$unit"; do
            [ -d "$folder/$name.d" ] || continue
            rm -rf "$folder/$name.d"
            removed "drop-ins $folder/$name.d"
        done
    done
}

remove_unit() {
    unit=$(basename "$1")
    case $unit in *.container) unit=${unit%.container}.service ;; esac
    scope=--system
    case $1 in
        /etc/*) ;;
        *)
            scope=--user
            XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
            export XDG_RUNTIME_DIR
            ;;
    esac
    if command -v systemctl >/dev/null 2>&1; then
        systemctl "$scope" disable --now "$unit" 2>/dev/null || systemctl "$scope" stop "$unit" 2>/dev/null || true
    fi
    rm -f "$1"
    remove_drop_ins "$1"
    if command -v systemctl >/dev/null 2>&1; then
        systemctl "$scope" daemon-reload 2>/dev/null || true
        systemctl "$scope" reset-failed "$unit" 2>/dev/null || true
    fi
    removed "unit $1"
}

# Those that came with us, unless a release of another service needs them, which then removes them, or somebody else has a container of them.
remove_images() {
    for image in $(lines "$prefix/etc/images"); do
        user=$(for other in $(others); do ! grep -qsF "Image=$image" "$other"/releases/*/release.json || echo "$other"; done | head -n 1)
        if [ -n "$user" ]; then
            grep -qsx "$image" "$user/etc/images" || echo "$image" >>"$user/etc/images"
            left "image $image, which $user uses too"
        elif podman rmi "$image" >/dev/null 2>&1; then
            removed "image $image"
        elif podman image exists "$image" 2>/dev/null; then
            left "image $image, which another container uses (remove it with: podman rmi $image)"
        fi
    done
}

stop_supervisor() {
    [ -f "$prefix/etc/supervisord.conf" ] || return 0
    pid=$("$prefix/current/bin/supervisorctl" -c "$prefix/etc/supervisord.conf" pid 2>/dev/null | grep -E '^[1-9][0-9]*$') || return 0
    "$prefix/current/bin/supervisorctl" -c "$prefix/etc/supervisord.conf" shutdown >/dev/null 2>&1 || true
    for _ in $(seq 60); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 1
    done
    removed "supervisord $pid"
}

# Processes that have our programs mapped or files of our environments or models open, whatever they call themselves: the
# service, and what an interrupted run left, a build or the placing of a model. Those of containers on this host may show
# the same path, of a file system of their own: they are not ours.
our_processes() {
    here=$(readlink /proc/self/ns/pid)
    for process in /proc/[0-9]*; do
        if grep -qs -F -e " $real/envs/" -e " $real/bin/" "$process/maps" ||
            [ -n "$(find "$process/fd" \( -lname "$real/envs/*" -o -lname "$real/models/*" \) 2>/dev/null)" ]; then
            [ "$(readlink "$process/ns/pid")" != "$here" ] || echo "${process#/proc/}"
        fi
    done
}

end_processes() {
    for signal in TERM KILL; do
        pids=$(our_processes)
        [ -n "$pids" ] || return 0
        for pid in $pids; do
            kill -s "$signal" "$pid" 2>/dev/null || true
            removed "process $pid (SIG$signal)"
        done
        for _ in $(seq 20); do
            [ -n "$(our_processes)" ] || return 0
            sleep 0.5
        done
    done
}

remove_packages() {
    packages=$(lines "$prefix/installed-packages.txt" | tr '\n' ' ')
    packages=${packages% }
    [ -n "$packages" ] || return 0
    if command -v apt-get >/dev/null 2>&1; then
        command="apt-get remove -y"
    elif command -v dnf >/dev/null 2>&1; then
        command="dnf remove -y"
    else
        command="zypper -n remove"
    fi
    if [ "$FIRSTLIGHT_REMOVE_PACKAGES" = 0 ]; then
        left "operating system packages; to remove them: $command $packages"
    else
        # shellcheck disable=SC2086 # a command and a list of package names
        $command $packages >/dev/null || fail "packages were not removed: $packages" "try it on the host: $command $packages"
        removed "operating system packages: $packages"
    fi
}

# What programs of these packages have written, which no removal of a package takes away.
tell_data() {
    for package in $(lines "$prefix/installed-packages.txt"); do
        dpkg -L "$package" 2>/dev/null || rpm -ql "$package" 2>/dev/null || true
    done | grep -E '^/var/lib/[^/]+$' | sort -u | while IFS= read -r folder; do
        [ -z "$(find "$folder" -type f -print 2>/dev/null | head -n 1)" ] || left "data of these packages: $folder"
    done
}

# Slices of GPUs that came with us, unless a process uses them; those that were there before stay.
remove_slices() {
    mig=${FIRSTLIGHT_FOLDER:-/etc/firstlight-mig}
    [ -w "$mig" ] && [ -z "$(others)" ] || return 0 # root's, where a user runs this
    made=$(lines "$mig/made" | sort -u | sed 's/$/=/' | tr '\n' ' ')
    if said=$(FIRSTLIGHT_SLICES=$made sh "$mig/make.sh"); then
        [ -z "$said" ] || removed "slices of GPUs"
    else
        left "slices of GPUs: $(echo "$said" | sed -n 's/^firstlight-error: //p')"
    fi
    remove_unit /etc/systemd/system/firstlight-mig.service
    rm -rf "$mig"
}

# Folders that tools make beside the prefix: those of Ansible go where they are empty, as other sites may use them.
remove_tool_folders() {
    for home in "${HOME:-/root}" "$(getent passwd "${SUDO_USER:-}" | cut -d: -f6)"; do
        [ -d "$home/.ansible/tmp" ] || continue
        if rmdir "$home/.ansible/tmp" 2>/dev/null; then
            rmdir "$home/.ansible" 2>/dev/null || true
            removed "folder $home/.ansible/tmp"
        else
            left "folder $home/.ansible/tmp, which is not empty"
        fi
    done
    compiled=${TMPDIR:-/tmp}/torchinductor_$(id -un)
    [ ! -e "$compiled" ] || left "folder $compiled, code that torch compiled (remove it with: rm -rf $compiled)"
}

records=/var/lib/firstlight-drivers

# Packages that the driver roles recorded under a word.
recorded() {
    [ ! -d "$records" ] || sed -n "s/^$1 //p" "$records"/* 2>/dev/null | sort -u
}

by_rpm() { ls /etc/yum.repos.d/firstlight-*.repo >/dev/null 2>&1; }

# Reads names, and prints those of packages that are there.
of_installed() {
    if by_rpm; then
        there=$(rpm -qa --qf '%{NAME}\n')
    else
        there=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '/^.[^n]/ { print $2 }')
    fi
    grep -xF "$there" || true
}

# Processes that have a GPU open, but for those of the packages that go.
gpu_users() {
    find /proc/[0-9]*/fd \( -lname '/dev/nvidia[0-9]*' -o -lname /dev/nvidiactl -o -lname '/dev/nvidia-uvm*' -o -lname /dev/kfd \) 2>/dev/null |
        cut -d / -f 3 | sort -un | while read -r pid; do
        name=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
        case $name in nvidia-persiste* | nv-fabricmanage* | nvlsm) ;; *) echo "$pid ($name)" ;; esac
    done | paste -s -d ' ' -
}

# Purges these packages and no other one; a package that others need stays. Both programs refuse to break dependencies.
purge() {
    while [ -n "$1" ]; do
        # shellcheck disable=SC2086 # a list of package names
        if by_rpm; then
            try="rpm -e --allmatches --test" make="rpm -e --allmatches"
            said=$($try $1 2>&1) && break
            why=$(echo "$said" | sed -n 's/^[[:space:]]*\(.* is needed by .*\)$/\1/p')
            needed=$(echo "$why" | sed 's/ .*//' | while read -r name; do rpm -q --qf '%{NAME}\n' --whatprovides "$name" || true; done)
        else
            try="dpkg --no-act --purge" make="dpkg --purge"
            said=$($try $1 2>&1) && break
            why=$(echo "$said" | sed -n 's/^ \(.*depends on .*\)\.$/\1/p')
            needed=$(echo "$said" | sed -n '/^Errors were encountered/,$s/^ \([^ :]*\).*/\1/p')
        fi
        needed=$(echo "$needed" | grep -xF "$(echo "$1" | tr ' ' '\n')" | sort -u) || fail "packages cannot be removed: $(echo "$said" | tail -n 3 | tr '\n' ' ')" "try it on the host: $make $1"
        left "$(echo "$needed" | paste -s -d ' ' -), which other packages need: $(echo "$why" | head -n 3 | paste -s -d ';' -)"
        set -- "$(echo "$1" | tr ' ' '\n' | grep -vxF "$needed" | paste -s -d ' ' -)"
    done
    [ -n "$1" ] || return 0
    # shellcheck disable=SC2086
    said=$($make $1 2>&1) || fail "packages were not removed: $(echo "$said" | grep -iE '^(dpkg: )?error' | head -n 3 | tr '\n' ' ')" "try it on the host: $make $1"
    removed "packages $1"
}

remove_driver_files() {
    settings=/etc/modprobe.d/firstlight-nvidia.conf
    [ ! -e "$settings" ] || blocked=1
    for file in /etc/apt/sources.list.d/firstlight-* /etc/apt/preferences.d/firstlight-* /etc/apt/apt.conf.d/52firstlight-* \
        /usr/share/keyrings/firstlight-* /etc/yum.repos.d/firstlight-* /etc/pki/rpm-gpg/firstlight-* "$settings" \
        /etc/modules-load.d/firstlight-fabric.conf /etc/systemd/system/nvidia-persistenced.service.d/firstlight.conf; do
        [ -e "$file" ] || continue
        rm "$file"
        removed "file $file"
    done
    rmdir /etc/systemd/system/nvidia-persistenced.service.d 2>/dev/null || true
    ! command -v systemctl >/dev/null || systemctl daemon-reload 2>/dev/null || true
    # nouveau may have the GPUs again, from the first file system on.
    [ -n "${blocked:-}" ] || return 0
    if command -v update-initramfs >/dev/null; then
        update-initramfs -u -k all >/dev/null 2>&1 || left "initial file systems without nouveau (rebuild them with: update-initramfs -u -k all)"
    elif command -v dracut >/dev/null; then
        dracut --regenerate-all --force >/dev/null 2>&1 || left "initial file systems without nouveau (rebuild them with: dracut --regenerate-all --force)"
    fi
}

remove_keys() {
    for key in $(recorded key); do
        case $key in /*) key=$(gpg --show-keys --with-colons "$key" 2>/dev/null | awk -F : '/^fpr/ { print $10; exit }') ;; esac
        short=$(echo "$key" | tail -c 9 | tr '[:upper:]' '[:lower:]')
        for package in $(rpm -qa gpg-pubkey | grep -e "${short:-none}-"); do
            rpm -e "$package"
            removed "key $package"
        done
    done
}

# Docker starts no more where a runtime of its settings is gone.
restore_docker() {
    settings=/etc/docker/daemon.json
    [ -e "$records/docker.after" ] && ! command -v nvidia-container-runtime >/dev/null || return 0
    if ! cmp -s "$records/docker.after" "$settings"; then
        ! grep -qs nvidia-container-runtime "$settings" || left "runtime nvidia in $settings, which was changed since (remove it there)"
        return 0
    fi
    if [ -e "$records/docker.before" ]; then cp -p "$records/docker.before" "$settings"; else rm "$settings"; fi
    systemctl reload docker 2>/dev/null || true
    removed "runtime nvidia in $settings"
}

# Daemons and modules of a driver that is gone; the kernel's own amdgpu has no version.
unload() {
    for unit in nvidia-persistenced.service nvidia-fabricmanager.service; do
        [ "$(systemctl show --property=LoadState --value "$unit" 2>/dev/null)" != not-found ] || systemctl stop "$unit" 2>/dev/null || true
    done
    for name in nvidia_uvm nvidia_drm nvidia_modeset nvidia_peermem nvidia amdgpu; do
        [ -d "/sys/module/$name" ] || continue
        case $name in
            amdgpu) if [ -z "$amdgpu" ] || [ ! -e /sys/module/amdgpu/version ]; then continue; fi ;;
            *) ! command -v nvidia-smi >/dev/null || continue ;;
        esac
        rmmod "$name" >/dev/null 2>&1 || left "module $name, which is loaded until the host is restarted (sudo systemctl reboot)"
    done
}

# What the driver roles brought. Without consent it stays, held at its version, as other programs run on it too.
remove_drivers() {
    if [ ! -d "$records" ]; then
        for source in /etc/apt/sources.list.d/firstlight-*.sources /etc/yum.repos.d/firstlight-*.repo; do
            [ ! -e "$source" ] || left "what came from $source; there is no record of its packages"
        done
        return 0
    fi
    other=$(others | head -n 1)
    packages=$(recorded installed | of_installed | paste -s -d ' ' -)
    if [ -n "$other" ]; then
        [ "$FIRSTLIGHT_REMOVE_DRIVERS" = 0 ] || left "drivers, which $other uses too: $packages"
        return 0
    elif [ "$FIRSTLIGHT_REMOVE_DRIVERS" = 0 ]; then
        left "drivers and their repositories, held at their version (remove them with: ./firstlight uninstall --drivers): $packages"
        return 0
    fi
    [ "$(id -u)" = 0 ] || fail "drivers are not removed: $(id -un) is not root" "run the command as an account that may use sudo"
    users=$(gpu_users)
    [ -z "$users" ] || fail "drivers are not removed, as a GPU is in use: process $users" "end it, or stop its service (systemctl stop), then run the same command again"
    held=$(recorded held | of_installed)
    # shellcheck disable=SC2086
    [ -z "$held" ] || apt-mark unhold $held >/dev/null
    amdgpu=$(echo "$packages" | grep -o amdgpu-dkms) || true
    purge "$packages"
    before=$( (recorded instead && recorded held) | sort -u | of_installed | paste -s -d ' ' -)
    [ -z "$before" ] || left "packages that were there before, or replaced those; they are held no more: $before"
    remove_keys
    remove_driver_files
    restore_docker
    unload
    rm -rf "$records"
    removed "folder $records"
}

# Behind a prefix that is a link there may be files of others: a former version took such a folder for its own.
foreign_files() {
    [ -L "$prefix" ] || return 0
    find "$real" -mindepth 1 -maxdepth 1 -exec basename {} \; | grep -vxE "$made" || true
}

remove_folders() {
    users=$(lines "$prefix/created-users.txt")
    if [ -d "$prefix/etc/set-aside" ]; then
        find "$prefix/etc/set-aside" ! -type d | while IFS= read -r file; do removed "$file, which had been set aside"; done
    fi
    foreign=$(foreign_files)
    for path in "$real"/* "$real"/.[!.]*; do
        name=${path##*/}
        case $name in .firstlight | created-users.txt | .nfs*) continue ;; esac
        echo "$foreign" | grep -qxF -e "$name" || rm -rf "$path"
    done
    for user in $users; do
        if id "$user" >/dev/null 2>&1; then
            if userdel "$user"; then removed "account $user"; else left "account $user (remove it with: userdel $user)"; fi
        fi
    done
    if [ -n "$foreign" ]; then
        left "folder $real, which holds what this product has not made: $(echo "$foreign" | paste -s -d ' ' -)"
        rm -f "$real/created-users.txt" "$real/.firstlight" "$prefix"
    else
        # NFS keeps what is open as .nfs*, such as the lock of this run, which removes the folder at its end.
        rm -rf "$real" "$prefix" || { [ -d "$real" ] && [ -z "$(find "$real" -mindepth 1 ! -name '.nfs*')" ]; }
        # A mount point cannot be removed, nor a folder of a parent that the user may not write.
        if [ -d "$real" ] && [ -z "$(ls -A "$real")" ]; then
            left "folder $real, which is empty and cannot be removed"
            return 0
        fi
    fi
    removed "folder $prefix"
}

# Only a folder that this product makes is removed, whatever the setting says.
remove_incoming() {
    case $FIRSTLIGHT_INCOMING in
        *..*) ;;
        /var/tmp/firstlight-*)
            if [ -d "$FIRSTLIGHT_INCOMING" ]; then
                rm -rf "$FIRSTLIGHT_INCOMING"
                removed "folder $FIRSTLIGHT_INCOMING"
            fi
            ;;
    esac
}

check_prefix
if [ "$FIRSTLIGHT_CHECK" = 1 ]; then
    [ ! -e "$prefix" ] || removed "folder $prefix"
    [ "$FIRSTLIGHT_REMOVE_DRIVERS" = 0 ] || [ ! -d "$records" ] || removed "drivers: $(recorded installed | paste -s -d ' ' -)"
    exit 0
fi
if [ -e "$prefix" ]; then
    for unit in $(lines "$prefix/etc/units"); do
        if is_of_others "$unit"; then left "unit $unit, which another installation has"; else remove_unit "$unit"; fi
    done
    stop_supervisor
    end_processes
    remove_images
    remove_slices
fi
remove_drivers
if [ -e "$prefix" ]; then
    hand_on
    tell_data
    remove_packages
    remove_folders
fi
remove_tool_folders
remove_incoming
