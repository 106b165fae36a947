# Verifies files that arrived, and gives them their names; prints what is damaged: provision/fleet/ssh/upload.py.
# Each line of the standard input is `PART SHA NAME`.
#   FL_FOLDER    the folder
#   FL_LEDGER    name of the list of verified files

# shellcheck shell=sh

cd -- "$FL_FOLDER" || exit 1

# Prints lines `PART SHA NAME` as `GOT PART SHA NAME`. Python's SHA-256 uses CPU instructions that sha256sum often lacks.
hashes() {
    if python3 -I -c 'import hashlib' 2>/dev/null; then
        python3 -I -c '
import concurrent.futures, hashlib, sys

def of(line):
    digest = hashlib.sha256()
    try:
        with open(line.split(" ", 1)[0], "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return "none " + line
    return digest.hexdigest() + " " + line

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    sys.stdout.writelines(pool.map(of, sys.stdin))
'
    else
        while read -r part sha name; do
            got=$(sha256sum <"$part")
            echo "${got%% *} $part $sha $name"
        done
    fi
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
