# Builds PREFIX/envs/DIGEST from the files in the incoming folder, offline, every hash checked by uv. The marker
# .complete is written last: an environment without it is rebuilt. Nothing live is touched here; the service role
# switches `current`. Standard input: the lock.
set -eu
umask 022

final=$FIRSTLIGHT_PREFIX/envs/$FIRSTLIGHT_DIGEST
uv=$FIRSTLIGHT_PREFIX/bin/uv
lock=$(mktemp)
cache=
trap 'rm -rf "$lock" ${cache:+"$cache"}' EXIT
trap 'exit 143' HUP INT TERM
cat >"$lock"

fail() {
    echo "firstlight-error: $1" >&2
    [ -z "${2:-}" ] || echo "firstlight-hint: $2" >&2
    exit 1
}

is_complete() {
    grep -q "\"digest\": \"$FIRSTLIGHT_DIGEST\"" "$final/.complete" 2>/dev/null &&
        cmp -s "$lock" "$final/lock.txt" &&
        "$final/bin/python" -I -c '' 2>/dev/null
}

# A controller that was killed may have left a build that still runs: it ends first.
take_turn() {
    command -v flock >/dev/null 2>&1 || return 0
    exec 9>"$FIRSTLIGHT_PREFIX/envs/.lock"
    flock -w "$FIRSTLIGHT_LOCK_TIMEOUT_S" 9 ||
        fail "another installation has worked on $FIRSTLIGHT_PREFIX/envs for more than $FIRSTLIGHT_LOCK_TIMEOUT_S s" "see what holds it: fuser -v $FIRSTLIGHT_PREFIX/envs/.lock"
}

need() {
    [ -f "$FIRSTLIGHT_INCOMING/$1" ] || fail "file $1 is not in $FIRSTLIGHT_INCOMING" "run ./firstlight provision: it sends what is missing"
}

install_uv() {
    sent=$FIRSTLIGHT_INCOMING/$FIRSTLIGHT_UV
    if [ ! -f "$sent" ] && [ -x "$uv" ]; then
        return 0
    fi
    need "$FIRSTLIGHT_UV"
    cmp -s "$sent" "$uv" || { cp "$sent" "$uv.new" && chmod 755 "$uv.new" && mv -f "$uv.new" "$uv"; }
}

# The interpreter's path; a sent one is unpacked beside and moved into place whole.
interpreter() {
    if [ -z "$FIRSTLIGHT_ARCHIVE" ]; then
        echo "$FIRSTLIGHT_PYTHON"
        return
    fi
    name=${FIRSTLIGHT_ARCHIVE%.tar.*}
    home=$FIRSTLIGHT_PREFIX/python/$name
    if ! "$home/bin/python3" -I -c '' 2>/dev/null; then
        need "$FIRSTLIGHT_ARCHIVE"
        rm -rf "$home" "$home.new"
        mkdir -p "$home.new"
        tar -xf "$FIRSTLIGHT_INCOMING/$FIRSTLIGHT_ARCHIVE" -C "$home.new" --strip-components=1 --no-same-owner ||
            fail "interpreter archive $FIRSTLIGHT_ARCHIVE cannot be unpacked"
        mv "$home.new" "$home"
    fi
    echo "$home/bin/python3"
}

check_interpreter() {
    found=$("$1" -I -c 'import platform; print(platform.python_version())' 2>&1) ||
        fail "interpreter $1 does not run: $found" "run ./firstlight provision: the plan is made anew from what the host has now"
    case $found in
        "$FIRSTLIGHT_PYTHON_VERSION" | "$FIRSTLIGHT_PYTHON_VERSION".*) ;;
        *) fail "interpreter $1 is Python $found, and the lock was solved for $FIRSTLIGHT_PYTHON_VERSION" "run ./firstlight provision: the plan is made anew from what the host has now" ;;
    esac
}

# The host's own torch, by its own name and without importing it: the plan was made for that one.
check_torch() {
    [ -n "$FIRSTLIGHT_TORCH" ] || return 0
    # shellcheck disable=SC2016 # for Python
    found=$("$final/bin/python" -I -c 'import importlib.util, pathlib, re
spec = importlib.util.find_spec("torch")
text = pathlib.Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
print(dict(re.findall(r"^(__version__) *= *.([^\x27\x22]+)", text, re.M)).get("__version__", "none"))')
    [ "$found" = "$FIRSTLIGHT_TORCH" ] ||
        fail "torch of $python is $found, and the plan was made for $FIRSTLIGHT_TORCH" "run ./firstlight provision: the plan is made anew from what the host has now"
}

# uv reads no settings of the host's users, and its unpacked files lie on the same file system, to be linked.
run_uv() {
    env -u PYTHONPATH -u PYTHONHOME -u VIRTUAL_ENV UV_NO_CONFIG=1 UV_OFFLINE=1 UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1 UV_CACHE_DIR="$cache" UV_LINK_MODE=hardlink "$uv" "$@"
}

# The lines of the lock for the distributions that go in last, or, with -v, all others.
lines_of_last() {
    pattern=$(printf '%s' "$FIRSTLIGHT_LAST" | tr ' ' '|')
    grep -E "$@" "^(${pattern:--})==" "$final/lock.txt" || true
}

install() {
    run_uv pip "$@" --no-index --find-links "$FIRSTLIGHT_INCOMING" --require-hashes --python "$final/bin/python" >&2
}

# With a torch of the host's own, the interpreter's packages stay in reach, behind those of the lock: by this option, which
# a virtual environment answers for the Python below it,
inherits() {
    [ -z "$FIRSTLIGHT_TORCH" ] && return
    if [ ! -f "$home/pyvenv.cfg" ] || grep -Eiq '^include-system-site-packages *= *true' "$home/pyvenv.cfg"; then
        echo --system-site-packages
    fi
}

# and by a file that Python reads at its start, which names a virtual environment's own.
reach_packages() {
    [ -n "$FIRSTLIGHT_TORCH" ] && [ -f "$home/pyvenv.cfg" ] || return 0
    paths='import sysconfig; print(*dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))), sep="\n")'
    "$python" -I -c "$paths" >"$cache/packages"
    cp "$cache/packages" "$("$final/bin/python" -I -c "$paths" | head -n 1)/_firstlight_torch.pth"
}

build() {
    install_uv
    python=$(interpreter) || exit 1
    check_interpreter "$python"
    rm -rf "$final" "$FIRSTLIGHT_PREFIX"/envs/.cache.*
    cache=$(mktemp -d "$FIRSTLIGHT_PREFIX/envs/.cache.XXXXXX")
    home=${python%/bin/*}
    # shellcheck disable=SC2046 # an option or nothing
    run_uv venv --quiet --no-project $(inherits) --python "$python" "$final"
    reach_packages
    # Not by cp, which keeps the mode of a private file: the probe of a login without root compares this one.
    cat "$lock" >"$final/lock.txt"
    printf '%s\n' "$FIRSTLIGHT_STACK" >"$final/stack.json"
    lines_of_last -v >"$cache/first.txt"
    install sync "$cache/first.txt" ||
        fail "uv could not install the lock of environment $FIRSTLIGHT_DIGEST" "what uv says stands above; run ./firstlight provision to send missing or damaged files anew"
    if [ -n "$FIRSTLIGHT_LAST" ]; then
        # Against what lies there now: without its own requirements it cannot bring another torch, and the check below would see one.
        lines_of_last >"$cache/last.txt"
        install install --no-deps --requirements "$cache/last.txt" ||
            fail "uv could not install $FIRSTLIGHT_LAST into environment $FIRSTLIGHT_DIGEST" "what uv says stands above; run ./firstlight provision to send missing or damaged files anew"
    fi
    "$final/bin/python" -I -c "$FIRSTLIGHT_CHECKER" "$final/lock.txt"
    "$final/bin/python" -I -c "$FIRSTLIGHT_MANIFEST" "$final/lock.txt" "$FIRSTLIGHT_INCOMING"
    check_torch
    printf '{"digest": "%s", "at": "%s", "interpreter": "%s"}\n' "$FIRSTLIGHT_DIGEST" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$python" >"$final/.complete.new"
    keep_byte_code
    mv "$final/.complete.new" "$final/.complete"
    drop_cache
}

# Compile while the rest goes on: an environment is complete without it. Whoever compiles holds .compiling, by which it is seen that the
# list of the byte code is under way; where that was cut off, it begins anew.
keep_byte_code() {
    [ ! -e "$final/bytecode.txt" ] || return 0
    if command -v setsid >/dev/null 2>&1 && command -v flock >/dev/null 2>&1; then
        exec 8>"$final/.compiling"
        flock -n 8 || return 0
        setsid -f "$final/bin/python" -I -c "$FIRSTLIGHT_WARM" </dev/null >/dev/null 2>&1 9>&-
        exec 8>&-
    else
        "$final/bin/python" -I -c "$FIRSTLIGHT_WARM" >/dev/null || echo "byte code of environment $FIRSTLIGHT_DIGEST was not compiled" >&2
    fi
}

# Unlinking tens of thousands of files can take seconds that nobody needs to wait for.
drop_cache() {
    if command -v setsid >/dev/null 2>&1; then
        setsid -f rm -rf "$cache" </dev/null >/dev/null 2>&1 9>&-
        cache=
    fi
}

if [ "$FIRSTLIGHT_CHECK" = 1 ]; then
    is_complete || echo "firstlight-changed: environment $FIRSTLIGHT_DIGEST"
    exit 0
fi
take_turn
if is_complete; then
    keep_byte_code
else
    build
    echo "firstlight-changed: environment $FIRSTLIGHT_DIGEST"
fi
# Installed, the wheels and the archive would only hold the space a second time.
find "$FIRSTLIGHT_INCOMING" -maxdepth 1 -name '*.whl' -delete 2>/dev/null || true
[ -z "$FIRSTLIGHT_ARCHIVE" ] || rm -f "$FIRSTLIGHT_INCOMING/$FIRSTLIGHT_ARCHIVE"
