# Reads who changed files. Runs after frame.sh on the standard input of `sh -s` and changes nothing on the host.
# Parameters in addition to the frame's:
#   FL_PATHS     one path per line
#   FL_BEFORE_S  seconds before a change in which a sudo call may have made it

# shellcheck shell=sh

# of_each COMMAND...: run it with each path in turn; a failing one prints nothing.
of_each() {
    while IFS= read -r path; do
        "$@" "$path" 2>/dev/null
    done <<LIST
$FL_PATHS
LIST
    return 0
}

# Prints owner, modification and change time in Unix seconds, and path.
owners() {
    of_each stat -c '%U %Y %Z %n'
}

owner_of_rpm() {
    name=$(rpm -qf --queryformat '%{NAME}' "$1") && printf '%s: %s\n' "$name" "$1"
}

packages() {
    if has dpkg-query; then
        of_each dpkg-query -S
    else
        has rpm || absent 'neither dpkg-query nor rpm is there' || return
        of_each owner_of_rpm
    fi
}

# sudo_before PATH: print the last sudo call in the journal before the file changed, except this product's own calls.
sudo_before() {
    changed=$(stat -c %Z "$1") || return
    limit journalctl --no-pager --output=short-unix _COMM=sudo "--since=@$((changed - FL_BEFORE_S))" "--until=@$((changed + 1))" |
        grep 'COMMAND=' | grep -v firstlight-root | tail -n 1 | while IFS= read -r line; do printf '%s|%s\n' "$1" "$line"; done
}

sudo_calls() {
    has journalctl || absent 'journalctl is not there' || return
    of_each sudo_before
}

read_host owners packages sudo_calls
