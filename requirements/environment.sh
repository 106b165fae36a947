# shellcheck shell=sh disable=SC2154  # here, venv, lock are set by the launcher
# Sourced by the launcher if .venv differs from the lock: builds a new environment next to the old one, and switches.
# Input: $here (the checkout), $venv (its .venv), $lock (run or dev), $bundle (a file, or empty) and is_current. All
# output goes to stderr.

report() { printf 'firstlight: %s\n' "$*" >&2; }

fail() { # what, hint
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 2
}

# Sets $python to the first interpreter of 3.11 or later that can create environments, otherwise to the first of 3.11 or later. The
# system's own, if /usr/bin is on the PATH, is the first: those of version managers are often built without optimisation, and disappear when they are updated.
find_python() {
    python=
    python_whole=
    system=
    case :$PATH: in *:/usr/bin:*) system=/usr/bin/python3 ;; esac
    for name in $system python3 python3.11 python3.12 python3.13 python3.14 python3.15; do
        found=$("$name" -I -c '
import importlib.util, os, sys
whole = importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")
if sys.version_info >= (3, 11):
    print("yes" if whole else "no", os.path.realpath(sys.executable))' 2>/dev/null) || continue
        case $found in
            "yes "*) python=${found#yes } python_whole=yes; return ;;
            "no "*) python=${python:-${found#no }} ;;
        esac
    done
}

# Runs a command; prints its output only if it fails.
quietly() {
    printed=$("$@" 2>&1 </dev/null) && return
    printf '%s\n' "$printed" >&2
    return 1
}

# Installs packages as root, otherwise prints the command: $1 is the problem, the rest are the packages.
install_packages() {
    missing=$1
    shift
    if command -v apt-get >/dev/null 2>&1; then
        command="apt-get update && apt-get install -y $*"
        [ "$(id -u)" = 0 ] || fail "$missing" "sudo sh -c '$command'"
        report "$missing; installing $*"
        # continue if one of several sources does not answer: another may have the package
        quietly apt-get update -qq || report "apt-get update ended with an error; continuing with the present package lists"
        quietly env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qq -y \
            --no-install-recommends "$@" || fail "could not install $*" "$command"
    elif command -v dnf >/dev/null 2>&1; then
        command="dnf install -y $*"
        [ "$(id -u)" = 0 ] || fail "$missing" "sudo $command"
        report "$missing; installing $*"
        quietly dnf install -q -y "$@" || fail "could not install $*" "$command"
    else
        fail "$missing" "install $* with this system's package manager, then run the same command again"
    fi
}

ensure_python() {
    find_python
    if [ -z "$python" ]; then
        # the release's default if it is new enough, otherwise the newest additional one of its archive
        case $(. /etc/os-release 2>/dev/null && printf '%s' "${ID-}:${VERSION_ID-}") in
            ubuntu:22.04) install_packages "no Python 3.11 or later is on the PATH" python3.11 python3.11-venv ;;
            debian:* | ubuntu:*) install_packages "no Python 3.11 or later is on the PATH" python3 python3-venv ;;
            *) install_packages "no Python 3.11 or later is on the PATH" python3.12 ;;
        esac
        find_python
    elif [ -z "$python_whole" ]; then
        install_packages "$python has no venv support" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        find_python
    fi
    [ -n "$python_whole" ] || fail "no Python 3.11 or later with venv support was found, also after installing one" \
        "put one on the PATH as python3, with its venv and ensurepip modules"
}

# Unpacks the bundle's wheels next to .venv. The hashes in the lock reject all other files.
unpack_bundle() {
    wheels=$venv.wheels.$$
    mkdir -p "$wheels"
    tar -xf "$bundle" -C "$wheels" --strip-components=1 controller >&2 \
        || fail "$bundle holds no wheels of the controller" "make one where there is a network: ./firstlight bundle create -o FILE"
}

# Sets $uv to the locked version of uv: that of the present .venv if equal, otherwise installed by pip.
ensure_uv() {
    wanted=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$here/requirements/$lock.txt")
    uv=$venv/bin/uv
    case $("$uv" --version 2>/dev/null) in "uv $wanted" | "uv $wanted "*) return ;; esac
    report "making .venv with $python"
    "$python" -I -m venv "$venv.boot.$$" >&2
    sed -n '/^uv==/,/^    # via/p' "$here/requirements/$lock.txt" >"$venv.boot.$$/uv.txt"
    set --
    [ -z "$bundle" ] || set -- --no-index --find-links "$wheels"
    "$venv.boot.$$/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-user --require-hashes --no-deps "$@" \
        -r "$venv.boot.$$/uv.txt" >&2 \
        || fail "pip could not install uv $wanted" "set pip's index-url (pip config set global.index-url URL) or its proxy, then run again"
    uv=$venv.boot.$$/bin/uv
}

build() {
    [ -z "$bundle" ] || unpack_bundle
    ensure_uv
    report "installing what requirements/$lock.txt locks"
    new=$venv.new.$$
    set --
    [ -z "$bundle" ] || set -- --offline --no-index --find-links "$wheels"
    "$uv" venv --quiet --no-project --relocatable --python "$python" "$new" >&2
    # an extra index or folder of the user that does not answer must not stop the installation from the default index
    if ! (
        [ -n "$bundle" ] || eval "$("$python" "$here/requirements/pip_settings.py")"
        "$uv" pip sync --quiet "$@" ${UV_NO_INDEX:+--no-index} --python "$new/bin/python" --require-hashes "$here/requirements/$lock.txt" >&2
    ); then
        [ -z "$bundle" ] || fail "$bundle does not hold what requirements/$lock.txt locks for $python" \
            "use the release of Firstlight that is in the bundle: tar -xf BUNDLE product"
        report "that failed with your extra indexes and folders; trying without them"
        (
            eval "$("$python" "$here/requirements/pip_settings.py")"
            unset UV_INDEX UV_FIND_LINKS
            "$uv" pip sync --quiet ${UV_NO_INDEX:+--no-index} --python "$new/bin/python" --require-hashes "$here/requirements/$lock.txt" >&2
        ) || fail "uv could not install what requirements/$lock.txt locks" \
            "see the lines above; uv honours UV_DEFAULT_INDEX, SSL_CERT_FILE, HTTPS_PROXY and your pip settings"
    fi
    cp "$here/requirements/$lock.txt" "$new/$lock.lock"
    # the development lock contains the other: one environment satisfies both
    [ "$lock" = run ] || cp "$here/requirements/run.txt" "$new/run.lock"
    if [ -e "$venv" ]; then mv "$venv" "$venv.old.$$"; fi
    mv "$new" "$venv"
}

ensure_python
# tried in a subshell: a failed redirection ends the shell
( mkdir -p "$here/.cache" && : >>"$here/.cache/launcher.lock" ) 2>/dev/null ||
    fail "$here cannot be written" "run once as the owner of that folder, or clone it to one of yours"
exec 9>"$here/.cache/launcher.lock"
# the lock belongs to descriptor 9 of this shell; the kernel releases it however the shell ends
"$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("firstlight: another one is making .venv; waiting for it\n")
    fcntl.flock(9, fcntl.LOCK_EX)'
if ! is_current; then
    rm -rf "$venv".boot.* "$venv".new.* "$venv".old.* "$venv".wheels.* # of a killed launcher
    build
    rm -rf "$venv".boot.* "$venv".old.* "$venv".wheels.*
fi
exec 9>&-
