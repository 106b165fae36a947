# Verifies files that arrived, and gives them their names; prints what is damaged: provision/fleet/ssh/upload.py.
# Each line of the standard input is `PART SHA NAME`.
#   FL_FOLDER    the folder
#   FL_LEDGER    name of the list of verified files

# shellcheck shell=sh

cd -- "$FL_FOLDER" || exit 1

# The bytes that are hashed between two empty lines on the error output, which show that the host is at work.
piece=4194304

# Prints lines `PART SHA NAME` as `GOT PART SHA NAME`. Python's SHA-256 uses CPU instructions that sha256sum often lacks.
hashes() {
    if python3 -I -c 'import hashlib' 2>/dev/null; then
        python3 -I -c '
import concurrent.futures, hashlib, os, sys

def of(line):
    digest = hashlib.sha256()
    try:
        with open(line.split(" ", 1)[0], "rb") as file:
            for block in iter(lambda: file.read(int(sys.argv[1])), b""):
                digest.update(block)
                os.write(2, b"\n")
    except OSError:
        return "none " + line
    return digest.hexdigest() + " " + line

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    sys.stdout.writelines(pool.map(of, sys.stdin))
' "$piece"
    else
        while read -r part sha name; do
            got=$(pieces "$part" | sha256sum)
            echo "${got%% *} $part $sha $name"
        done
    fi
}

pieces() {
    at=0
    while [ $((at * piece)) -lt "$(stat -c %s -- "$1")" ]; do
        dd if="$1" bs="$piece" skip="$at" count=1 2>/dev/null || return 1
        at=$((at + 1))
        echo >&2
    done
}

hashes | while read -r got part sha name; do
    if [ "$got" = "$sha" ]; then
        case $name in */*) mkdir -p -- "${name%/*}" ;; esac
        mv -f -- "$part" "$name" && echo "$sha $(stat -c '%s %Y' -- "$name") $name" >>"$FL_LEDGER" || exit 1
    else
        rm -f -- "$part"
        echo "$got $name"
    fi
done
