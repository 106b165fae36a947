# shellcheck shell=sh
# Removes what an installation brought, in an order that a second call can take up: the marker that says the prefix is
# ours goes last. Prints `firstlight-changed:` for what was removed and `firstlight-left:` for what stays.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

prefix=$FIRSTLIGHT_PREFIX

fail() {
    echo "firstlight-error: $1"
    echo "firstlight-hint: $2"
    exit 1
}

removed() { echo "firstlight-changed: $1"; }
left() { echo "firstlight-left: $1"; }
lines() { cat "$1" 2>/dev/null || true; }

# Installations of other services of this machine: PREFIX@SERVICE, and PREFIX of one that has no name.
others() {
    for folder in "${prefix%@*}" "${prefix%@*}"@*; do
        if [ "$folder" != "$prefix" ] && [ -f "$folder/.firstlight" ]; then
            echo "$folder"
        fi
    done
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
    found=$(find "$prefix" -mindepth 1 -maxdepth 1 -exec basename {} \;)
    [ -n "$found" ] && ! echo "$found" | grep -qv '^lock'
}

check_prefix() {
    case $prefix in
        *..* | *//* | */ | [!/]*) fail "prefix $prefix is not a plain absolute path" "give the prefix that was installed" ;;
    esac
    [ "$prefix" != "${HOME:-}" ] || fail "prefix $prefix is a home folder, and is not removed" "give the prefix that was installed"
    if [ -e "$prefix" ] && [ "$(lines "$prefix/.firstlight")" != "firstlight 1" ] && ! has_only_locks; then
        fail "prefix $prefix is not an installation of this product (no marker .firstlight in it), and is not removed" "give the prefix that was installed"
    fi
}

# Of a unit that is no more they would change the next one of its name.
remove_drop_ins() {
    case $2 in
        /etc/*) set -- "$1" "$2" "$2.control" /run/systemd/system /run/systemd/system.control ;;
        *) set -- "$1" "$2" "$2.control" "$XDG_RUNTIME_DIR/systemd/user" "$XDG_RUNTIME_DIR/systemd/user.control" ;;
    esac
    name=$1
    shift
    for folder in "$@"; do
        [ -d "$folder/$name.d" ] || continue
        rm -rf "$folder/$name.d"
        removed "drop-ins $folder/$name.d"
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
    remove_drop_ins "$unit" "$(dirname "$1")"
    if command -v systemctl >/dev/null 2>&1; then
        systemctl "$scope" daemon-reload 2>/dev/null || true
        systemctl "$scope" reset-failed "$unit" 2>/dev/null || true
    fi
    removed "unit $1"
}

# Those that came with us, unless somebody else has a container of them.
remove_images() {
    for image in $(lines "$prefix/etc/images"); do
        if podman rmi "$image" >/dev/null 2>&1; then
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

# Processes that have files of our environments mapped, whatever they call themselves. Those of containers on this host
# may show the same path, of a file system of their own: they are not ours.
our_processes() {
    here=$(readlink /proc/self/ns/pid)
    for maps in /proc/[0-9]*/maps; do
        pid=${maps#/proc/}
        pid=${pid%/maps}
        if grep -qs -F "$prefix/envs/" "$maps" && [ "$(readlink "/proc/$pid/ns/pid")" = "$here" ]; then
            echo "$pid"
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
    [ -d "$mig" ] && [ -z "$(others)" ] || return 0
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

# Installed packages whose version a file of apt's sources offers, by its addresses and components.
apt_packages_of() {
    dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | awk '/^.i/ { print $2 }' | xargs apt-cache policy | awk \
        -v uris="$(sed -n 's/^URIs: *//p' "$1" | tr '\n' ' ')" -v components="$(sed -n 's/^Components: *//p' "$1" | tr '\n' ' ')" '
        function plain(uri) { sub(/^file:\/+/, "file:/", uri); sub(/\/+$/, "", uri); return uri }
        BEGIN {
            for (count = split(uris, words); count; count--) offered[plain(words[count])] = 1
            for (count = split(components, words); count; count--) wanted[words[count]] = 1
        }
        /^[^ ]/ { package = substr($1, 1, length($1) - 1) }
        $NF ~ /^-?[0-9]+$/ { installed = $1 == "***" }
        installed && plain($2) in offered && (components == "" || substr($3, index($3, "/") + 1) in wanted) { print package }' |
        sort -u | tr '\n' ' '
}

dnf_packages_of() {
    dnf -q --disablerepo='*' repoquery --installed --queryformat '%{name} %{from_repo}\n' |
        awk -v repository="$1" '$2 == repository { print $1 }' | sort -u | tr '\n' ' '
}

# Other programs run on the drivers too: they stay, held at their version, and the commands that remove them are printed.
tell_drivers() {
    [ -z "$(others)" ] || return 0
    for source in /etc/apt/sources.list.d/firstlight-*.sources /etc/yum.repos.d/firstlight-*.repo; do
        [ -e "$source" ] || continue
        name=$(basename "${source%.*}")
        case $source in
            *.sources)
                packages=$(apt_packages_of "$source")
                commands="${packages:+apt-mark unhold $packages&& apt-get purge $packages&& }"
                ;;
            *)
                packages=$(dnf_packages_of "$name")
                commands="${packages:+dnf remove $packages&& }"
                ;;
        esac
        files=$source
        for file in "/etc/apt/preferences.d/$name" "/etc/apt/apt.conf.d/52$name" "/usr/share/keyrings/$name.asc" "/etc/pki/rpm-gpg/$name"; do
            [ ! -e "$file" ] || files="$files $file"
        done
        left "what came from $source, held at its version (remove it with: ${commands}rm $files)"
    done
}

remove_folders() {
    users=$(lines "$prefix/created-users.txt")
    if [ -d "$prefix/etc/set-aside" ]; then
        find "$prefix/etc/set-aside" ! -type d | while IFS= read -r file; do removed "$file, which had been set aside"; done
    fi
    find "$prefix" -mindepth 1 -maxdepth 1 ! -name .firstlight ! -name created-users.txt -exec rm -rf {} +
    for user in $users; do
        if id "$user" >/dev/null 2>&1; then
            userdel "$user" && removed "account $user"
        fi
    done
    rm -rf "$prefix"
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
    exit 0
fi
if [ -e "$prefix" ]; then
    for unit in $(lines "$prefix/etc/units"); do
        remove_unit "$unit"
    done
    stop_supervisor
    end_processes
    remove_images
    remove_slices
    hand_on
    tell_data
    remove_packages
    tell_drivers
    remove_folders
fi
remove_tool_folders
remove_incoming
