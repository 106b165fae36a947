# shellcheck shell=sh
# Follows find_python.sh. Brings a host to where Ansible's modules can work: a prefix that is ours, the operating system packages that are
# missing, a Python. Runs before there is a Python, hence POSIX sh. Input: FIRSTLIGHT_* variables; output: lines
# `firstlight-changed:`, `firstlight-python:`, `firstlight-account:`, `firstlight-groups:`, `firstlight-error:`.
set -eu
umask 022
# Of Ubuntu's needrestart: list services that use an older library, restart none.
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C

marker=$FIRSTLIGHT_PREFIX/.firstlight
list=$FIRSTLIGHT_PREFIX/installed-packages.txt
archive=$FIRSTLIGHT_INCOMING/${FIRSTLIGHT_ARCHIVE:-none}

fail() {
    echo "firstlight-error: $1"
    [ -z "${2:-}" ] || echo "firstlight-hint: $2"
    # What a failed installation brought is noted at once: what others install from now on is theirs.
    [ "$FIRSTLIGHT_CHECK" = 1 ] || note_packages
    exit 1
}

# A plan is for one account. With another one, files of root would fill a user's home, or a user could not write the system's folders.
# Where root is the owner, both are the same account.
check_account() {
    is_root=0
    [ "$(id -u)" != 0 ] || is_root=1
    if [ "$FIRSTLIGHT_ROOT" != "$is_root" ] && [ "$FIRSTLIGHT_OWNER" != root ]; then
        fail "Ansible works as $(id -un) on this host, and the plan is for another account" \
            "set ansible_become in the inventory, where Firstlight reads it, and plan again"
    fi
}

check_prefix() {
    case $FIRSTLIGHT_PREFIX in
        *..* | *//* | */ | [!/]*) fail "prefix $FIRSTLIGHT_PREFIX is not a plain absolute path" "set firstlight_prefix to a folder of its own, /opt/firstlight for one" ;;
    esac
    [ ! -f "$marker" ] && [ -d "$FIRSTLIGHT_PREFIX" ] || return 0
    # A run's own note of who holds the host may be there before anything else.
    foreign=$(find "$FIRSTLIGHT_PREFIX/" -mindepth 1 -maxdepth 1 ! -name 'lock*' -exec basename {} \; | head -n 3 | tr '\n' ' ')
    if [ -n "$foreign" ]; then
        fail "prefix $FIRSTLIGHT_PREFIX holds files that are not of this product: $foreign" \
            "set firstlight_prefix to a folder of its own, $FIRSTLIGHT_PREFIX/firstlight for one"
    fi
}

# By the name of the prefix the plan decides whether the service sees home directories; a link there is seen on the host alone.
check_homes() {
    [ "$FIRSTLIGHT_HIDES_HOMES" = 1 ] || return 0
    real=$(readlink -m "$FIRSTLIGHT_PREFIX")
    case $real in
        /home/* | /root/* | /run/user/*) fail "prefix $FIRSTLIGHT_PREFIX leads to $real, and the service sees no home directory" "set firstlight_prefix to $real" ;;
    esac
}

# An account of a service needs no shell, so one that has a shell can be used by somebody.
has_login() {
    case $(grep "^$FIRSTLIGHT_OWNER:" /etc/passwd) in
        "" | root:* | *nologin | */false) return 1 ;;
    esac
}

# Whether an installation here has made the account. Each service has a prefix, PREFIX@SERVICE, and one of them made it.
is_own_account() {
    for folder in "$FIRSTLIGHT_PREFIX" "${FIRSTLIGHT_PREFIX%@*}" "${FIRSTLIGHT_PREFIX%@*}"@*; do
        if grep -qs "^$FIRSTLIGHT_OWNER:.*:$folder/home:[^:]*$" /etc/passwd || grep -qsx "$FIRSTLIGHT_OWNER" "$folder/created-users.txt"; then
            return 0
        fi
    done
    return 1
}

# The account of the service gets no shell and a home of its own, which would turn off the login of a person.
check_login() {
    [ "$FIRSTLIGHT_ROOT" = 1 ] && has_login && ! is_own_account || return 0
    fail "account $FIRSTLIGHT_OWNER exists, and somebody may log in with it" \
        "rename the login (usermod -l NAME $FIRSTLIGHT_OWNER), or, if nobody needs it, turn it off (usermod -s /usr/sbin/nologin $FIRSTLIGHT_OWNER)"
}

# Returns when a file is on the disk: the packages may be on another one, which keeps them when this one loses what was not written yet.
on_disk() {
    sync "$1" 2>/dev/null || sync
}

# A marker that is empty was lost by its disk before it was written.
claim_prefix() {
    if [ ! -s "$marker" ]; then
        echo "firstlight-changed: prefix $FIRSTLIGHT_PREFIX"
        if [ "$FIRSTLIGHT_CHECK" = 0 ]; then
            mkdir -p "$FIRSTLIGHT_PREFIX" || fail "folder $FIRSTLIGHT_PREFIX cannot be made" "set firstlight_prefix to a folder that $(id -un) can write"
            echo "firstlight 1" >"$marker"
            on_disk "$marker"
        fi
    fi
}

manager() {
    for name in apt-get dnf zypper; do
        if command -v "$name" >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    echo none
}

is_installed() {
    case $manager in
        # A line for each architecture.
        apt-get) dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed ;;
        *) rpm -q --whatprovides "$1" >/dev/null 2>&1 ;;
    esac
}

all_packages() {
    case $manager in
        apt-get) dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' ;;
        *) rpm -qa --qf '%{NAME}\n' ;;
    esac | sort -u
}

missing_packages() {
    for name in $FIRSTLIGHT_PACKAGES; do
        is_installed "$name" || printf '%s ' "$name"
    done
    [ -n "$(find_python)" ] || [ -f "$archive" ] || is_installed python3 || printf 'python3 '
}

# Runs a package command again while another package manager holds its lock.
patiently() {
    deadline=$(($(date +%s) + FIRSTLIGHT_LOCK_TIMEOUT_S))
    while :; do
        if said=$("$@" 2>&1); then
            return 0
        fi
        case $said in
            *"Could not get lock"* | *"is another process using it"* | *"locked by another process"* | *"System management is locked"* | *"already locked by"*) ;;
            *) return 1 ;;
        esac
        if [ "$(date +%s)" -ge "$deadline" ]; then
            holder=$(printf '%s\n' "$said" | sed -n 's/.*held by process \([0-9]* ([^)]*)\).*/\1/p; s/.*another process with pid \([0-9]*\).*/\1/p; s/.*already locked by \([0-9]*\).*/\1/p' | head -n 1)
            fail "another package manager${holder:+ ($holder)} held its lock for $FIRSTLIGHT_LOCK_TIMEOUT_S s" "wait for it to finish, then run the command again"
        fi
        sleep 2
    done
}

apt_install() {
    patiently apt-get -y -q --no-install-recommends -o Dpkg::Use-Pty=0 -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 install "$@"
}

# Those of the sent .deb files whose package is absent or older here.
wanted_debs() {
    for name in $FIRSTLIGHT_DEBS; do
        file=$FIRSTLIGHT_INCOMING/$name
        [ -f "$file" ] || fail "package file $file is not on the host" "run the command again: missing files are sent anew"
        here=$(dpkg-query -W -f='${Version}' "$(dpkg-deb -f "$file" Package)" 2>/dev/null) || here=
        if [ -z "$here" ] || dpkg --compare-versions "$here" lt "$(dpkg-deb -f "$file" Version)"; then
            printf '%s ' "$file"
        fi
    done
}

install_packages() {
    case $manager in
        apt-get)
            [ -z "$(dpkg --audit)" ] || patiently dpkg --configure -a || fail "dpkg --configure -a: $(printf '%s' "$said" | tail -n 3)"
            if [ -n "$FIRSTLIGHT_DEBS" ]; then
                files=$(wanted_debs) || { echo "$files" && exit 1; }
                [ -n "$files" ] || return 0
                # Of a file whose package a source lists as well, apt asks the source first, and gives its unprivileged user the rest to read.
                # shellcheck disable=SC2086 # a list of file names without blanks
                apt_install -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null $files
            else
                # A source that does not answer may not be the one that has them.
                apt_install "$@" || { patiently apt-get -q update || true; apt_install "$@"; }
            fi
            ;;
        dnf) patiently dnf -y -q --setopt=install_weak_deps=False --setopt=exit_on_lock=True install "$@" ;;
        zypper) patiently zypper -n -q install --no-recommends "$@" ;;
        *) fail "no package manager of this host is known, and $* must be installed" "install them by hand" ;;
    esac
}

# Notes what was installed since the list of before was written, which stays where this cannot be written.
note_packages() {
    [ -f "$list.before" ] || return 0
    all_packages >"$list.after" &&
        { cat "$list" 2>/dev/null || true; comm -13 "$list.before" "$list.after"; } | sort -u >"$list.new" &&
        on_disk "$list.new" &&
        mv "$list.new" "$list" &&
        rm -f "$list.before" "$list.after"
}

install_hint() {
    case $said in
        *"Unable to locate package"*) echo "the package sources of this host do not offer it: sudo apt-get update shows what they answer" ;;
        *) echo "try it on the host: sudo $manager install $1" ;;
    esac
}

# Uninstall must know what came with us; an installation that was cut off is taken up with the list it began with, also where it had
# installed everything and could not note it any more.
ensure_packages() {
    missing=$(missing_packages)
    missing=${missing% }
    if [ -z "$missing" ]; then
        [ "$FIRSTLIGHT_CHECK" = 1 ] || note_packages
        return 0
    fi
    echo "firstlight-changed: packages $missing"
    [ "$FIRSTLIGHT_CHECK" = 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "operating system packages are missing and $(id -un) is not root: $missing" "have them installed: sudo $manager install -y $missing"
    if [ ! -f "$list.before" ]; then
        all_packages >"$list.before.new"
        on_disk "$list.before.new"
        mv "$list.before.new" "$list.before"
        on_disk "$list.before"
    fi
    # shellcheck disable=SC2086 # a list of package names
    install_packages $missing || fail "packages $missing were not installed: $(printf '%s\n' "$said" | grep -E '^(E:|Err|Error|dpkg: error)' | head -n 3 | tr '\n' ' ')" \
        "$(install_hint "$missing")"
    for name in $missing; do
        is_installed "$name" || fail "package $name is not installed, though $manager reported no error"
    done
    note_packages
}

# The groups that own GPU device nodes, as far as the host has them.
device_groups() {
    for name in video render; do
        if getent group "$name" >/dev/null 2>&1; then
            echo "$name"
        fi
    done
}

report_account() {
    [ "$FIRSTLIGHT_ROOT" = 1 ] || return 0
    groups=$(device_groups | tr '\n' ',')
    groups=${groups%,}
    echo "firstlight-groups: $groups"
    if ! id "$FIRSTLIGHT_OWNER" >/dev/null 2>&1; then
        if [ "$FIRSTLIGHT_CHECK" = 0 ]; then
            echo "$FIRSTLIGHT_OWNER" >"$FIRSTLIGHT_PREFIX/created-users.txt"
            on_disk "$FIRSTLIGHT_PREFIX/created-users.txt"
        fi
        echo "firstlight-account: differs"
        return
    fi
    ! has_login || echo "firstlight-account: differs"
    for group in $(device_groups); do
        case " $(id -nG "$FIRSTLIGHT_OWNER") " in
            *" $group "*) ;;
            *) echo "firstlight-account: differs" ;;
        esac
    done
}

# Where `python3` is too old: Ubuntu 20.04, RHEL 8, SLES 15.
python_hint() {
    case $manager in
        apt-get) echo "sudo apt-get install python3.9" ;;
        dnf) echo "sudo dnf install python3.11" ;;
        zypper) echo "sudo zypper install python311" ;;
        *) echo "this host has no known package manager" ;;
    esac
}

# A host without any Python gets along with the environment's interpreter, where one was sent.
ensure_python() {
    if [ -z "$(find_python)" ] && [ -f "$archive" ] && [ "$FIRSTLIGHT_CHECK" = 0 ]; then
        home=$FIRSTLIGHT_PREFIX/python/${FIRSTLIGHT_ARCHIVE%.tar.*}
        rm -rf "$home" "$home.new"
        mkdir -p "$home.new"
        tar -xf "$archive" -C "$home.new" --strip-components=1 --no-same-owner || fail "interpreter archive $archive cannot be unpacked"
        mv "$home.new" "$home"
        echo "firstlight-changed: python $home"
    fi
    python=$(find_python)
    if [ -n "$python" ]; then
        echo "firstlight-python: $python"
    elif [ "$FIRSTLIGHT_CHECK" = 0 ]; then
        fail "host $(hostname 2>/dev/null || uname -n) has no Python 3.9 or later that runs" "install one: $(python_hint)"
    fi
}

manager=$(manager)
said=
check_account
check_prefix
check_homes
check_login
claim_prefix
ensure_packages
report_account
ensure_python
