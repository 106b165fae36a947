# Starts, restarts or stops supervisord, detached from whoever called. FIRSTLIGHT_ACTION: start, restart, stop.
set -eu
export PYTHONDONTWRITEBYTECODE=1

bin=$FIRSTLIGHT_PREFIX/current/bin
# The environment that is live by now may be one that does without supervisor.
[ -x "$bin/supervisorctl" ] || bin=$FIRSTLIGHT_PREFIX/previous/bin
config=$FIRSTLIGHT_PREFIX/etc/supervisord.conf

fail() {
    echo "firstlight-error: $1" >&2
    echo "firstlight-hint: $2" >&2
    exit 1
}

running_pid() {
    "$bin/supervisorctl" -c "$config" pid 2>/dev/null | grep -E '^[1-9][0-9]*$'
}

# True once `running_pid` answers (yes) or no longer does (no); false after the time allowed.
wait_until_running() {
    deadline=$(($(date +%s) + FIRSTLIGHT_TIMEOUT_S))
    while :; do
        if running_pid >/dev/null; then now=yes; else now=no; fi
        [ "$now" != "$1" ] || return 0
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

stop() {
    pid=$(running_pid) || return 0
    echo "firstlight-changed: supervisord $pid stopped"
    "$bin/supervisorctl" -c "$config" shutdown >/dev/null
    wait_until_running no || fail "supervisord (PID $pid) still runs $FIRSTLIGHT_TIMEOUT_S s after it was told to stop" "see what holds it: ps --ppid $pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

start() {
    if running_pid >/dev/null; then
        # A program that failed, or waits to be started again, tells of an earlier start.
        if "$bin/supervisorctl" -c "$config" status firstlight-vllm | grep -q ' RUNNING '; then
            return 0
        fi
        stop
    fi
    # Its own session, no inherited file and no variable of the caller's: it outlives the connection, and Ansible does not
    # wait for it.
    said=$FIRSTLIGHT_PREFIX/logs/supervisord.start.log
    env -i PATH="$PATH" HOME="$FIRSTLIGHT_PREFIX/home" LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 setsid -f "$bin/supervisord" -c "$config" </dev/null >"$said" 2>&1
    wait_until_running yes || fail "supervisord did not start within $FIRSTLIGHT_TIMEOUT_S s: $(tail -n 2 "$said")" "try it on the host: $bin/supervisord -n -c $config"
    echo "firstlight-changed: supervisord started"
}

case $FIRSTLIGHT_ACTION in
    stop) stop ;;
    start) start ;;
    restart)
        stop
        start
        ;;
esac
