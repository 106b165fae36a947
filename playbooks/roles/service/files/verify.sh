# shellcheck shell=sh
# The live environment's Python runs, and what was started is there. Whether it answers right is proven afterwards.
set -eu
export PYTHONDONTWRITEBYTECODE=1

fail() {
    echo "firstlight-error: $1" >&2
    echo "firstlight-hint: $2" >&2
    exit 1
}

"$FIRSTLIGHT_PREFIX/current/bin/python" -I -c 'import sys; print(sys.prefix)'

case $FIRSTLIGHT_SUPERVISOR in
    systemd) scope=--system ;;
    systemd-user) scope=--user ;;
    supervisor)
        state=$("$FIRSTLIGHT_PREFIX/current/bin/supervisorctl" -c "$FIRSTLIGHT_PREFIX/etc/supervisord.conf" status "$FIRSTLIGHT_NAME" 2>&1) || true
        case $state in
            *RUNNING* | *STARTING* | *BACKOFF*) exit 0 ;;
            *) fail "supervisor says: $state" "see $FIRSTLIGHT_PREFIX/logs/" ;;
        esac
        ;;
    *) exit 0 ;;
esac

state=$(systemctl "$scope" show -p ActiveState --value "$FIRSTLIGHT_NAME")
case $state in
    active | activating | reloading) ;;
    *) fail "unit $FIRSTLIGHT_NAME is $state" "journalctl $scope -u $FIRSTLIGHT_NAME says why" ;;
esac
enabled=$(systemctl "$scope" is-enabled "$FIRSTLIGHT_NAME" || true)
case $enabled in
    enabled | generated) ;; # podman's generator enables what it makes
    *) fail "unit $FIRSTLIGHT_NAME is $enabled, so that a reboot would not bring it back" "systemctl $scope enable $FIRSTLIGHT_NAME" ;;
esac
