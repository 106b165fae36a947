# shellcheck shell=sh
# Ends with an error where Secure Boot is on and no key that the host signs its own modules with is enrolled.
set -eu
variable=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
state=unknown
if command -v mokutil >/dev/null 2>&1; then
    case $(mokutil --sb-state 2>&1) in
        *enabled*) state=on ;;
        *) state=off ;;
    esac
elif [ -r "$variable" ]; then
    # Four bytes of attributes, then the value.
    case $(od -An -tu1 "$variable") in
        *1) state=on ;;
        *) state=off ;;
    esac
fi
[ "$state" = on ] || exit 0

# Where shim's packages (Ubuntu) and dkms 3 (Debian, RHEL) keep the key that they sign modules with.
for key in /var/lib/shim-signed/mok/MOK.der /var/lib/dkms/mok.pub; do
    if [ -f "$key" ]; then
        case $(mokutil --test-key "$key" 2>&1) in
            *"already enrolled"*) exit 0 ;;
        esac
        found=$key
    fi
done
echo "firstlight-error: Secure Boot is on and the key that this host signs its own kernel modules with is not enrolled: its kernel would refuse the driver"
if [ -n "${found:-}" ]; then
    echo "firstlight-hint: on the host: sudo mokutil --import $found (it asks for a new password), restart, confirm the key and the password at the console (MOK management), then run the command again; or turn Secure Boot off in the firmware"
else
    echo "firstlight-hint: on the host: install dkms and mokutil, sudo dkms generate_mok (Ubuntu: sudo update-secureboot-policy --new-key), sudo mokutil --import /var/lib/dkms/mok.pub (Ubuntu: /var/lib/shim-signed/mok/MOK.der), restart, confirm the key at the console, then run the command again; or turn Secure Boot off in the firmware"
fi
exit 1
