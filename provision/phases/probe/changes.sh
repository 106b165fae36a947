# Reads who changed files: sent behind frame.sh on the standard input of `sh -s`, changes nothing there.
# Beside the frame's own parameters:
#   FL_PATHS     one path a line
#   FL_BEFORE_S  seconds before a change in which a sudo may have made it

# shellcheck shell=sh

# of_each COMMAND...: runs it with each path in turn; one that fails says nothing.
of_each() {
    while IFS= read -r path; do
        "$@" "$path" 2>/dev/null
    done <<LIST
$FL_PATHS
LIST
    return 0
}

# Owner, times of modification and of change in Unix seconds, path.
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

# sudo_before PATH: the journal's lines of sudo in the time before the file changed; our own calls carry a mark.
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
