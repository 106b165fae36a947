# shellcheck shell=sh
# A Python that Ansible's modules can use, 3.9 or later as ansible-core 2.20 and later ask for: the host's own, else one that was sent under the prefix.
find_python() {
    for name in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 "$FIRSTLIGHT_PREFIX"/python/*/bin/python3; do
        path=$(command -v "$name" 2>/dev/null) || continue
        if "$path" -I -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
            echo "$path"
            return
        fi
    done
}
