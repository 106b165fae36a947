# Common start of every script that reads a host: runs sections in parallel, each with a time limit.
#
# A process costs a host about a millisecond, so the shell itself does what it can. Two things are slow in it: cutting a long text with
# ${x#...} or ${x%...} takes time that grows with the square of its length, and `read` asks the kernel for each byte.
#
# The sender puts these assignments before this file, and the script's sections after it:
#   FL_NONCE     marks the script's own lines in the output
#   FL_PREFIX    where the product is installed; empty: the default of the user that runs this
#   FL_LIMIT_S   seconds that one external command may take
#   FL_BUDGET_S  seconds after which unfinished sections are abandoned
#
# Output: "@@NONCE begin NAME", the section's text, "@@NONCE end NAME STATUS REASON" for each section, then
# "@@NONCE over ALL|BUDGET". STATUS is an exit status: 124 after a timeout, 127 not found. A section without its end
# line was abandoned. Groups of sections run in parallel, so a command that cannot even be killed (a driver that hangs
# in the kernel) delays only its group.

# shellcheck shell=sh

say() { printf '%s=%s\n' "$1" "$2"; }

# first_line FILE: set `line` to the first line of a small file without starting a process; false where it cannot be read.
first_line() {
    line=''
    [ -r "$1" ] || return 1
    IFS= read -r line 2>/dev/null <"$1" || [ -n "$line" ]
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

# locate NAME: set `path` to the program of that name; empty and false where there is none.
locate() {
    path=''
    has "$1" || return 1
    IFS=:
    for folder in $PATH; do
        path=$folder/$1
        [ -f "$path" ] && [ -x "$path" ] && break
        path=''
    done
    unset IFS
    [ -n "$path" ]
}

absent() {
    printf '%s\n' "$1" >&2
    return 127
}

# limit COMMAND...: run it for at most FL_LIMIT_S; return 124 after a timeout.
limit() {
    if [ -n "$FL_TIMEOUT" ]; then
        timeout -k 1 "$FL_LIMIT_S" "$@"
        status=$?
        [ "$status" -eq 137 ] && status=124
    else
        "$@" &
        command_pid=$!
        {
            sleep "$FL_LIMIT_S" &
            sleep_pid=$!
            trap 'kill "$sleep_pid"; exit' TERM
            wait "$sleep_pid"
            kill -9 "$command_pid"
        } >/dev/null 2>&1 &
        guard_pid=$!
        wait "$command_pid"
        status=$?
        kill "$guard_pid" 2>/dev/null
        [ "$status" -eq 137 ] && status=124
    fi
    [ "$status" -eq 124 ] && printf 'no answer from %s within %s s\n' "$1" "$FL_LIMIT_S" >&2
    return "$status"
}

# section NAME FUNCTION: append its text and status to the file of its group.
section() {
    {
        printf '@@%s begin %s\n' "$FL_NONCE" "$1"
        "$2" 2>"$FL_DIR/$FL_GROUP.err"
        status=$?
        reason=''
        # The first line has the error; after a timeout it is the last line, which `limit` prints.
        while IFS= read -r line; do
            reason=$line
            [ "$status" -eq 124 ] || break
        done 2>/dev/null <"$FL_DIR/$FL_GROUP.err"
        printf '\n@@%s end %s %s %s\n' "$FL_NONCE" "$1" "$status" "$reason"
    } >>"$FL_DIR/$FL_GROUP.out"
}

# Each group reports its end; the reader must not wait for one that hangs.
run_groups() {
    for FL_GROUP in "$@"; do
        {
            case $FL_GROUP in group_*) "$FL_GROUP" ;; *) section "$FL_GROUP" "$FL_GROUP" ;; esac
            echo finished
        } &
    done
    sleep "$FL_BUDGET_S" >/dev/null &
    guard=$!
    echo "guard $guard"
    wait "$guard" && echo budget
}

collect() {
    left=$1 guard='' outcome=ALL
    while [ "$left" -gt 0 ] || [ -z "$guard" ]; do
        read -r word value || break
        case $word in
        guard) guard=$value ;;
        finished) left=$((left - 1)) ;;
        budget) outcome=BUDGET && break ;;
        esac
    done
    [ -n "$guard" ] && kill "$guard" 2>/dev/null
    cat "$FL_DIR"/*.out
    printf '@@%s clock %s\n' "$FL_NONCE" "$(date +%s.%N)"
    printf '@@%s over %s\n' "$FL_NONCE" "$outcome"
}

# who_am_i: set FL_UID, FL_USER, FL_GROUP_NAMES, and FL_TIMEOUT where `timeout` knows the option that `limit` needs.
who_am_i() {
    FL_TIMEOUT=yes
    # id exits with 1 where a group has no name: its answer counts.
    identity=$(timeout -k 1 5 id 2>/dev/null)
    case $identity in
    uid=*) ;;
    *) FL_TIMEOUT='' identity=$(id 2>/dev/null) ;;
    esac
    rest=${identity#uid=}
    FL_UID=${rest%%[!0-9]*}
    FL_USER='' FL_GROUP_NAMES=''
    case $rest in "$FL_UID("*) FL_USER=${rest#*\(} FL_USER=${FL_USER%%\)*} ;; esac
    rest=${identity#* groups=}
    rest=${rest%% context=*},
    while [ -n "$rest" ]; do
        name=${rest%%,*}
        rest=${rest#*,}
        name=${name#*\(}
        FL_GROUP_NAMES="$FL_GROUP_NAMES ${name%\)}"
    done
}

# read_host GROUP...: run the groups and print their output.
read_host() {
    # The script itself is on standard input, so no tool may read from it.
    exec </dev/null
    # Messages in English, tools outside a login user's path, files that only this user can read.
    LC_ALL=C
    PATH=${PATH:-/usr/bin:/bin}:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin:/opt/rocm/bin:/usr/lib/wsl/lib:/usr/local/cuda/bin
    export LC_ALL PATH
    umask 077
    FL_LIMIT_S=${FL_LIMIT_S:-10}
    FL_BUDGET_S=${FL_BUDGET_S:-15}
    printf '@@%s clock %s\n' "$FL_NONCE" "$(date +%s.%N)"
    who_am_i
    FL_HOME=${HOME:-}
    [ -n "$FL_HOME" ] || FL_HOME=$(getent passwd "$FL_UID" 2>/dev/null | cut -d: -f6)
    if [ -z "$FL_PREFIX" ]; then
        FL_PREFIX=/opt/firstlight
        [ "$FL_UID" = 0 ] || FL_PREFIX=$FL_HOME/.local/share/firstlight
    fi
    for folder in "${TMPDIR:-/tmp}" /dev/shm "/run/user/$FL_UID" /var/tmp "$FL_HOME"; do
        FL_DIR=$folder/.firstlight-probe-$FL_NONCE
        # A full disk allows a new folder, but no data in a file.
        mkdir "$FL_DIR" 2>/dev/null && { echo x >"$FL_DIR/try"; } 2>/dev/null && break
        rmdir "$FL_DIR" 2>/dev/null
        FL_DIR=''
    done
    if [ -z "$FL_DIR" ]; then
        printf '@@%s over NOWHERE\n' "$FL_NONCE"
        return 1
    fi
    trap 'rm -rf "$FL_DIR"' EXIT
    trap 'exit 129' HUP INT TERM
    # With exec: a redirection of one command would keep the old descriptor, and with it the connection, open in a
    # hanging process.
    (exec 2>/dev/null && run_groups "$@") | collect $#
}
