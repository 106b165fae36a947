# shellcheck shell=sh
# Fails where Secure Boot is on and the key that this host signs its own kernel modules with is not enrolled.
set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

shim=/var/lib/shim-signed/mok/MOK.der # Ubuntu's key
dkms=/var/lib/dkms/mok.pub            # the key of dkms 3: Debian, RHEL
variable=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c

if command -v mokutil >/dev/null; then
    case $(mokutil --sb-state 2>&1) in
        *"validation is disabled"*) exit 0 ;;
        *enabled*) ;;
        *) exit 0 ;;
    esac
elif [ "$(tail -c 1 "$variable" 2>/dev/null | od -An -tu1 | tr -d ' ')" != 1 ]; then
    exit 0
fi

own=
for key in "$shim" "$dkms"; do
    [ -f "$key" ] || continue
    own=$key
    case $(mokutil --test-key "$key" 2>&1) in
        *"already enrolled"*) exit 0 ;;
    esac
done

import="sudo mokutil --import ${own:-$dkms}"
generate="install dkms and mokutil, sudo dkms generate_mok (Ubuntu: sudo update-secureboot-policy --new-key), "
confirm="restart, confirm the key and the password at the console (MOK management), then run the command again"
if [ -n "$own" ]; then
    how="$import (it asks for a new password), $confirm"
else
    how="$generate$import (Ubuntu: $shim), restart, confirm the key at the console, then run the command again"
fi
echo "firstlight-error: Secure Boot is on and the key that this host signs its own kernel modules with is not enrolled: its kernel would refuse the driver"
echo "firstlight-hint: on the host: $how; or turn Secure Boot off in the firmware"
exit 1
