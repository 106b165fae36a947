# shellcheck shell=sh disable=SC2154  # here, venv, lock are the launcher's
# Sourced by the launcher when .venv is not what the lock says: makes it anew, beside the old one, and switches.
# Takes $here (the checkout), $venv (its .venv), $lock (run or dev), $bundle (a file, or nothing) and is_current; everything
# printed goes to stderr.

say() { printf 'firstlight: %s\n' "$*" >&2; }

fail() { # what, hint
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 2
}

# Sets $python to the first interpreter of 3.11 or later that can make environments, else to the first of 3.11 or later.
find_python() {
    python=
    python_whole=
    for name in python3 python3.11 python3.12 python3.13 python3.14 python3.15; do
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

# Runs a command and shows what it printed only when it fails.
quietly() {
    printed=$("$@" 2>&1 </dev/null) && return
    printf '%s\n' "$printed" >&2
    return 1
}

# Installs packages as root, else prints the command that does: $1 says what is missing, the rest are the packages.
install_packages() {
    missing=$1
    shift
    if command -v apt-get >/dev/null 2>&1; then
        command="apt-get update && apt-get install -y $*"
        [ "$(id -u)" = 0 ] || fail "$missing" "sudo sh -c '$command'"
        say "$missing; installing $*"
        # one source of several that does not answer is no reason to stop: the package may come from another
        quietly apt-get update -qq || say "apt-get update ended with an error; going on with the lists at hand"
        quietly env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qq -y \
            --no-install-recommends "$@" || fail "could not install $*" "$command"
    elif command -v dnf >/dev/null 2>&1; then
        command="dnf install -y $*"
        [ "$(id -u)" = 0 ] || fail "$missing" "sudo $command"
        say "$missing; installing $*"
        quietly dnf install -q -y "$@" || fail "could not install $*" "$command"
    else
        fail "$missing" "install $* with this system's package manager, then run the same command again"
    fi
}

ensure_python() {
    find_python
    if [ -z "$python" ]; then
        # the release's default where that is new enough, else the newest that its archive carries beside it
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

# The wheels in the bundle, beside .venv. The lock holds their hashes: whatever else is in there cannot get in.
unpack_bundle() {
    wheels=$venv.wheels.$$
    mkdir -p "$wheels"
    tar -xf "$bundle" -C "$wheels" --strip-components=1 controller >&2 \
        || fail "$bundle holds no wheels of the controller" "make one where there is a network: ./firstlight bundle create -o FILE"
}

# uv as the lock has it: the one of the present .venv when that is the same, else a fresh one by pip. Sets $uv.
ensure_uv() {
    wanted=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$here/requirements/$lock.txt")
    uv=$venv/bin/uv
    case $("$uv" --version 2>/dev/null) in "uv $wanted" | "uv $wanted "*) return ;; esac
    say "making .venv with $python"
    "$python" -I -m venv "$venv.boot.$$" >&2
    sed -n '/^uv==/,/^    # via/p' "$here/requirements/$lock.txt" >"$venv.boot.$$/uv.txt"
    set --
    [ -z "$bundle" ] || set -- --no-index --find-links "$wheels"
    "$venv.boot.$$/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --require-hashes --no-deps "$@" \
        -r "$venv.boot.$$/uv.txt" >&2 \
        || fail "pip could not install uv $wanted" "set pip's index-url (pip config set global.index-url URL) or its proxy, then run again"
    uv=$venv.boot.$$/bin/uv
}

build() {
    [ -z "$bundle" ] || unpack_bundle
    ensure_uv
    say "installing what requirements/$lock.txt locks"
    new=$venv.new.$$
    set --
    [ -z "$bundle" ] || set -- --offline --no-index --find-links "$wheels"
    "$uv" venv --quiet --no-project --relocatable --python "$python" "$new" >&2
    # an index or folder of the user's that does not answer must not stop what the default index has
    if ! (
        [ -n "$bundle" ] || eval "$("$python" "$here/requirements/pip_settings.py")"
        "$uv" pip sync --quiet "$@" --python "$new/bin/python" --require-hashes "$here/requirements/$lock.txt" >&2
    ); then
        [ -z "$bundle" ] || fail "$bundle does not hold what requirements/$lock.txt locks for $python" \
            "use the release of Firstlight that is in the bundle: tar -xf BUNDLE product"
        say "that failed with your extra indexes and folders; trying without them"
        (
            eval "$("$python" "$here/requirements/pip_settings.py")"
            unset UV_INDEX UV_FIND_LINKS
            "$uv" pip sync --quiet --python "$new/bin/python" --require-hashes "$here/requirements/$lock.txt" >&2
        ) || fail "uv could not install what requirements/$lock.txt locks" \
            "see the lines above; uv honours UV_DEFAULT_INDEX, SSL_CERT_FILE, HTTPS_PROXY and your pip settings"
    fi
    cp "$here/requirements/$lock.txt" "$new/$lock.lock"
    # the development lock holds all of the other: one environment serves both
    [ "$lock" = run ] || cp "$here/requirements/run.txt" "$new/run.lock"
    if [ -e "$venv" ]; then mv "$venv" "$venv.old.$$"; fi
    mv "$new" "$venv"
}

ensure_python
# tried in a shell of its own: this one would end at a redirection that fails
( mkdir -p "$here/.cache" && : >>"$here/.cache/launcher.lock" ) 2>/dev/null ||
    fail "$here cannot be written" "run once as the owner of that folder, or clone it to one of yours"
exec 9>"$here/.cache/launcher.lock"
# the lock belongs to descriptor 9, which this shell keeps; the kernel lets go of it however the shell ends
"$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("firstlight: another one is making .venv; waiting for it\n")
    fcntl.flock(9, fcntl.LOCK_EX)'
if ! is_current; then
    rm -rf "$venv".boot.* "$venv".new.* "$venv".old.* "$venv".wheels.* # of one that was killed
    build
    rm -rf "$venv".boot.* "$venv".old.* "$venv".wheels.*
fi
exec 9>&-
