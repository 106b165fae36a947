# Makes an incoming folder where it is absent, and lists it: provision/fleet/ssh/upload.py.
#   FL_FOLDER    the folder
#   FL_LEDGER    name of the list of verified files
#   FL_PEERS     name of the folder with the program that hands files on to other hosts

# shellcheck shell=sh

umask 077
mkdir -p -- "$FL_FOLDER" && cd -- "$FL_FOLDER" || exit 1
# Anybody may make a link in /var/tmp, to a folder of this user too.
if [ "$(stat -c %d:%i -- "$FL_FOLDER")" != "$(stat -c %d:%i .)" ]; then echo "$FL_FOLDER is a link" >&2; exit 1; fi
if [ "$(stat -c %u .)" != "$(id -u)" ]; then echo "$FL_FOLDER belongs to another user" >&2; exit 1; fi
chmod 700 .
if [ -d "$FL_PEERS" ]; then python3 -I "$FL_PEERS/peer.py" revoke || rm -rf "$FL_PEERS"; fi
if [ -f "$FL_LEDGER" ]; then sed 's/^/A /' "$FL_LEDGER"; fi
find . -type f ! -name "$FL_LEDGER" -exec stat -c 'F %s %Y %n' {} +
