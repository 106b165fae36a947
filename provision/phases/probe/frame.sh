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

# locate NAME: set `path` to the program of that name; empty and false where there is none.
locate() {
    path=''
    # The shell's own search is faster where there is nothing; what it finds may be a word of the shell, or in dash a file that cannot be executed.
    has "$1" || return 1
    IFS=:
    for folder in $PATH; do
        path=$folder/$1
        [ -x "$path" ] && [ -f "$path" ] && break
        path=''
    done
    unset IFS
    [ -n "$path" ]
}

# each_on_path FUNCTION NAME...: call the function with the path of each program that is there. As `locate`, and faster for many names.
each_on_path() {
    taker=$1
    shift
    for name in "$@"; do command -v "$name"; done >"$FL_FILES$FL_GROUP.path" 2>/dev/null
    while IFS= read -r path; do
        case $path in /*) if [ -x "$path" ] || locate "${path##*/}"; then "$taker" "$path"; fi ;; esac
    done <"$FL_FILES$FL_GROUP.path"
}

absent() {
    printf '%s\n' "$1" >&2
    return 127
}

# limit COMMAND...: run it for at most FL_LIMIT_S; return 124 after a timeout. A group runs one such command at a time, and
# `end_late` ends it: `timeout` would be a process more for each.
limit() {
    "$@" &
    command_pid=$!
    printf '%s %s\n' "$command_pid" "$FL_LIMIT_S" >"$FL_FILES$FL_GROUP.runs"
    wait "$command_pid"
    status=$?
    : >"$FL_FILES$FL_GROUP.runs"
    if [ "$status" -gt 128 ] && first_line "$FL_FILES$FL_GROUP.late" && [ "$line" = "$command_pid" ]; then
        status=124
        printf 'no answer from %s within %s s\n' "$1" "$FL_LIMIT_S" >&2
    fi
    return "$status"
}

# end_process SIGNAL PID: end a process and all that it started.
end_process() {
    signal=$1 command_pid=$2
    # Before the signal: whoever outlives the process that started it belongs to nobody.
    # shellcheck disable=SC2046
    set -- $(cat "/proc/$2/task/"*/children 2>/dev/null)
    kill -s "$signal" "$command_pid" 2>/dev/null
    for child in "$@"; do end_process "$signal" "$child"; done
}

# end_late: called once a second; end the commands that have reached their limit: by SIGTERM, and a second later by SIGKILL.
end_late() {
    for file in "$FL_FILES"*.runs; do
        group=${file%.runs}
        first_line "$file" || continue
        command_pid=${line% *} allowed=${line#* } seconds=0
        if first_line "$group.seen" && [ "${line% *}" = "$command_pid" ]; then seconds=${line#* }; fi
        seconds=$((seconds + 1))
        echo "$command_pid $seconds" >"$group.seen"
        [ "$seconds" -ge "$allowed" ] || continue
        echo "$command_pid" >"$group.late"
        if [ "$seconds" -eq "$allowed" ]; then end_process TERM "$command_pid"; else end_process KILL "$command_pid"; fi
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

# Each group reports its end; the reader must not wait for one that hangs. It ends the `sleep` whose number it read last.
run_groups() {
    for group in "$@"; do
        {
            run_group "$group"
            echo finished
        } &
    done
    passed=0
    while [ "$passed" -lt "$FL_BUDGET_S" ]; do
        sleep 1 >/dev/null &
        echo "second $!" || return
        wait "$!" || return
        passed=$((passed + 1))
        end_late
    done
    echo budget
}

collect() {
    left=$1 second='' outcome=ALL
    while [ "$left" -gt 0 ] || [ -z "$second" ]; do
        read -r word value || break
        case $word in
        second) second=$value ;;
        finished) left=$((left - 1)) ;;
        budget) outcome=BUDGET && break ;;
        esac
    done
    [ -n "$second" ] && kill "$second" 2>/dev/null
    cat "$FL_FILES"*.out
    printf '@@%s clock ' "$FL_NONCE"
    clock_and_clean || date +%s.%N
    printf '@@%s over %s\n' "$FL_NONCE" "$outcome"
}

# clock_and_clean: print the clock and remove the temporary files by one process: the time of a new file in a file system of this host is the
# clock. False where a network may be in between, and where `find` cannot print times, as that of busybox.
clock_and_clean() {
    case $FL_FILES in */) return 1 ;; esac
    : >"${FL_FILES}clock"
    find "$FL_FILES"* \( -name '*.clock' -printf '%C@\n' -o -true \) -delete 2>/dev/null
}

# clean: remove the temporary files that are left.
clean() {
    for file in "$FL_LEFT" "$FL_LEFT".*; do
        [ ! -e "$file" ] || { rm -rf "$FL_LEFT" "$FL_LEFT".* && return; }
    done
}

# user_id: set FL_UID. Not by `id`, which may wait for a directory service.
user_id() {
    FL_UID=''
    while read -r word _ FL_UID _ && [ "$word" != Uid: ]; do FL_UID=''; done 2>/dev/null </proc/self/status
    [ -n "$FL_UID" ] || FL_UID=$(id -u)
}

# make_files: set FL_FILES to how the names of temporary files begin, and FL_LEFT to what has to be removed; false where nothing can be
# written. No other user can write to the first two folders, so they need no folder of their own.
make_files() {
    for folder in /run "/run/user/$FL_UID" "${TMPDIR:-/tmp}" /dev/shm /var/tmp "$FL_HOME"; do
        [ -w "$folder" ] || continue
        FL_LEFT=$folder/.firstlight-probe-$FL_NONCE
        case $folder in
        /run | "/run/user/$FL_UID") FL_FILES=$FL_LEFT. ;;
        *) FL_FILES=$FL_LEFT/ && { mkdir "$FL_LEFT" 2>/dev/null || continue; } ;;
        esac
        # A full disk allows a new folder, but no data in a file.
        { echo x >"${FL_FILES}try"; } 2>/dev/null && return 0
        rm -rf "$FL_LEFT" "$FL_LEFT".*
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
    user_id
    FL_HOME=${HOME:-}
    [ -n "$FL_HOME" ] || FL_HOME=$(getent passwd "$FL_UID" 2>/dev/null | cut -d: -f6)
    if [ -z "$FL_PREFIX" ]; then
        FL_PREFIX=/opt/firstlight
        [ "$FL_UID" = 0 ] || FL_PREFIX=$FL_HOME/.local/share/firstlight
    fi
    if ! make_files; then
        printf '@@%s over NOWHERE\n' "$FL_NONCE"
        return 1
    fi
    trap clean EXIT
    trap 'exit 129' HUP INT TERM
    # With exec: a redirection of one command would keep the old descriptor, and with it the connection, open in a
    # hanging process.
    (exec 2>/dev/null && run_groups "$@") | collect $#
}
