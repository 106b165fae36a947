# Takes the lock of a host and answers each line of its standard input, until that ends: provision/fleet/locks.py.
#   FL_PREFIX    folder of the installation
#   FL_HOLDER    what PREFIX/lock.json says

# shellcheck shell=sh

set -u
locked=no
umask 022
command -v flock >/dev/null 2>&1 || { echo "no-flock"; exit 69; }
# The run that releases the lock removes the file. A lock on a removed file protects nothing, so try again.
while :; do
    mkdir -p "$FL_PREFIX" || exit 73
    # Whoever may read a file may lock it, such as one that a run left when the host lost its power.
    umask 077
    exec 9>>"$FL_PREFIX/lock" || exit 73
    umask 022
    chmod 600 "$FL_PREFIX/lock" 2>/dev/null
    flock -n 9 || break
    [ -e /proc/self/fd/9 ] || { locked=yes; break; }
    if [ "$(stat -L -c %d:%i "$FL_PREFIX/lock" 2>/dev/null)" = "$(stat -L -c %d:%i /proc/self/fd/9)" ]; then locked=yes; break; fi
done
if [ "$locked" = yes ]; then
    printf '%s\n' "$FL_HOLDER" >"$FL_PREFIX/lock.json"
    echo locked
    while read -r _; do echo held; done
    # On NFS a lock that `uninstall` removed keeps its folder until it is closed.
    [ -e "$FL_PREFIX/lock" ] || { exec 9>&-; rmdir "$FL_PREFIX" 2>/dev/null; }
    rm -f "$FL_PREFIX/lock.json" "$FL_PREFIX/lock"
else
    echo busy
    tr -d '\n' <"$FL_PREFIX/lock.json" 2>/dev/null
    echo
fi
