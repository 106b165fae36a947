# Common start of every script that reads a host: runs sections in parallel, each with a time limit.
#
# Two things are slow in a shell: cutting a long text with ${x#...} or ${x%...} takes time that grows with the square of its length, and
# `read` asks the kernel for each byte.
#
# The sender puts these assignments before this file, and the script's sections after it:
#   FL_NONCE     marks the script's own lines in the output
#   FL_SERVICE   name of the service whose installation is read; empty where the machine has one service
#   FL_PREFIX    where the product is installed; empty: the default of the user that runs this
#   FL_LIMIT_S   seconds that one external command may take
#   FL_BUDGET_S  seconds after which unfinished sections are abandoned
#
# Output: "@@NONCE start", then for each section "@@NONCE begin NAME", its text, and "@@NONCE end NAME STATUS REASON", then
# "@@NONCE clock SECONDS" and "@@NONCE over ALL|BUDGET". STATUS is an exit status: 124 after a timeout, 127 not found. A section
# without its end line was abandoned. Groups of sections run in parallel, so a command that cannot even be killed (a driver that
# hangs in the kernel) delays only its group.

# shellcheck shell=sh

say() { printf '%s=%s\n' "$1" "$2"; }

# first_line FILE: set `line` to the first line of a small file without starting a process; false where it cannot be read.
first_line() {
    line=''
    [ -r "$1" ] || return 1
    IFS= read -r line <"$1" || [ -n "$line" ]
}

# say_file KEY FILE: print the first line of a small file.
say_file() {
    if first_line "$2"; then say "$1" "$line"; fi
}

# of_files FILE...: print each file of one line after its path, as `grep -H` does; those that cannot be read are left out.
of_files() {
    for file in "$@"; do
        if first_line "$file"; then printf '%s:%s\n' "$file" "$line"; fi
    done
}

# show FILE: print a small file of a few lines without starting a process.
show() {
    line=''
    while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line"; line=''; done <"$1"
}

has() { command -v "$1" >/dev/null 2>&1; }

# locate NAME: set `path` to the program of that name; false where there is none.
locate() {
    path=$(command -v "$1") || return 1
    case $path in /*) [ -x "$path" ] ;; *) return 1 ;; esac
}

absent() {
    printf '%s\n' "$1" >&2
    return 127
}

# limit COMMAND...: run it for at most FL_LIMIT_S; return 124 after a timeout. Without `timeout` only the budget limits it.
limit() {
    if [ -n "$FL_TIMEOUT" ]; then $FL_TIMEOUT "$FL_LIMIT_S" "$@"; else "$@"; fi
    status=$?
    # 137: it was killed, because it ignored SIGTERM. 143: busybox.
    case $FL_TIMEOUT,$status in
    timeout*,124 | timeout*,137 | timeout*,143)
        status=124
        printf 'no answer from %s within %s s\n' "$1" "$FL_LIMIT_S" >&2
        ;;
    esac
    return "$status"
}

# choose_timeout: set FL_TIMEOUT to the command that limits others; empty where the host has none.
choose_timeout() {
    for FL_TIMEOUT in 'timeout -k 1' timeout ''; do
        [ -z "$FL_TIMEOUT" ] || ! $FL_TIMEOUT 1 true 2>/dev/null || break
    done
}

# section NAME FUNCTION: print its text and status.
section() {
    printf '@@%s begin %s\n' "$FL_NONCE" "$1"
    "$2" 2>"$FL_FILES$FL_GROUP.err"
    status=$? reason=''
    if [ "$status" -ne 0 ]; then
        # The first line has the error; after a timeout it is the last line, which `limit` prints.
        while IFS= read -r line; do
            reason=$line
            [ "$status" -eq 124 ] || break
        done <"$FL_FILES$FL_GROUP.err"
    fi
    printf '\n@@%s end %s %s %s\n' "$FL_NONCE" "$1" "$status" "$reason"
}

# run_group NAME: append the text of its sections to its file. A name that is no group is that of one section.
run_group() {
    FL_GROUP=$1
    case $1 in group_*) "$1" ;; *) section "$1" "$1" ;; esac >>"$FL_FILES$1.out"
}

# Each group reports its end; the reader must not wait for one that hangs.
run_groups() {
    for group in "$@"; do
        {
            run_group "$group"
            echo finished
        } &
    done
    sleep "$FL_BUDGET_S" >/dev/null &
    echo "timer $!"
    wait "$!" && echo budget
}

collect() {
    left=$1 timer='' outcome=ALL
    while [ "$left" -gt 0 ] || [ -z "$timer" ]; do
        read -r word value || break
        case $word in
        timer) timer=$value ;;
        finished) left=$((left - 1)) ;;
        budget) outcome=BUDGET && break ;;
        esac
    done
    kill "$timer" 2>/dev/null
    cat "$FL_FILES"*.out
    printf '@@%s clock ' "$FL_NONCE"
    date +%s.%N
    printf '@@%s over %s\n' "$FL_NONCE" "$outcome"
}

# make_files: set FL_FILES to how the names of temporary files begin; false where nothing can be written.
make_files() {
    for folder in /run "/run/user/$FL_UID" "${TMPDIR:-/tmp}" /dev/shm /var/tmp "$FL_HOME"; do
        FL_FILES=$folder/.firstlight-probe-$FL_NONCE/
        mkdir "$FL_FILES" 2>/dev/null || continue
        # A full disk allows a new folder, but no data in a file.
        { echo x >"${FL_FILES}try"; } 2>/dev/null && return 0
        rm -rf "$FL_FILES"
    done
    return 1
}

# read_host GROUP...: run the groups and print their output.
read_host() {
    # The script itself is on standard input, so no tool may read from it.
    exec </dev/null
    # Messages in English, tools outside a login user's path, files that only this user can read.
    LC_ALL=C
    PATH=${PATH:-/usr/bin:/bin}
    for folder in /usr/local/bin /usr/local/sbin /usr/bin /usr/sbin /bin /sbin /opt/rocm/bin /usr/lib/wsl/lib /usr/local/cuda/bin; do
        case :$PATH: in *":$folder:"*) ;; *) [ ! -d "$folder" ] || PATH=$PATH:$folder ;; esac
    done
    export LC_ALL PATH
    umask 077
    FL_LIMIT_S=${FL_LIMIT_S:-10}
    FL_BUDGET_S=${FL_BUDGET_S:-15}
    printf '@@%s start\n' "$FL_NONCE"
    FL_UID=$(id -u)
    choose_timeout
    FL_HOME=${HOME:-}
    [ -n "$FL_HOME" ] || FL_HOME=$(getent passwd "$FL_UID" 2>/dev/null | cut -d: -f6)
    if [ -z "$FL_PREFIX" ]; then
        FL_PREFIX=/opt/firstlight
        [ "$FL_UID" = 0 ] || FL_PREFIX=${FL_HOME%/}/.local/share/firstlight
        [ -z "${FL_SERVICE:-}" ] || FL_PREFIX=$FL_PREFIX@$FL_SERVICE
    fi
    if ! make_files; then
        printf '@@%s over NOWHERE\n' "$FL_NONCE"
        return 1
    fi
    trap 'rm -rf "$FL_FILES"' EXIT
    trap 'exit 129' HUP INT TERM
    # With exec: a redirection of one command would keep the old descriptor, and with it the connection, open in a
    # hanging process.
    (exec 2>/dev/null && run_groups "$@") | collect $#
}
