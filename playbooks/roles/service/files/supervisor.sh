# shellcheck shell=sh
# Starts, restarts or stops the supervisord of an environment, for hosts without systemd. Input: FIRSTLIGHT_* variables;
# output: a line `firstlight-changed:` for each step. FIRSTLIGHT_STATE is `started` (one whose program does not run is started
# again), `restarted` or `stopped`.
set -eu
export PYTHONDONTWRITEBYTECODE=1

config=$FIRSTLIGHT_PREFIX/etc/supervisord.conf
log=$FIRSTLIGHT_PREFIX/logs/supervisord.start.log
bin=$FIRSTLIGHT_PREFIX/current/bin
# The environment that is active by now may have no supervisor.
[ -x "$bin/supervisorctl" ] || bin=$FIRSTLIGHT_PREFIX/previous/bin

fail() {
    echo "firstlight-error: $1"
    echo "firstlight-hint: $2"
    exit 1
}

control() {
    "$bin/supervisorctl" -c "$config" "$@" 2>/dev/null || true
}

# Prints the process ID of supervisord, or nothing where it does not run.
process() {
    control pid | grep -x '[1-9][0-9]*' || true
}

# Waits until a command succeeds, for the time that is allowed.
await() {
    end=$(($(date +%s) + FIRSTLIGHT_TIMEOUT_S))
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || return 1
        sleep 0.2
    done
}

runs() { [ -n "$(process)" ]; }
ended() { ! runs; }
gone() { [ ! -e "/proc/$pid" ]; }

stop() {
    pid=$(process)
    [ -n "$pid" ] || return 0
    echo "firstlight-changed: stopped $pid"
    [ "$FIRSTLIGHT_CHECK" = 0 ] || return 0
    control shutdown >/dev/null
    { await ended && await gone; } ||
        fail "supervisord (PID $pid) still runs $FIRSTLIGHT_TIMEOUT_S s after it was asked to stop" "see what holds it: ps --ppid $pid"
}

# In a session of its own, with none of the caller's files and variables, so that it outlives the connection.
start() {
    echo "firstlight-changed: started"
    [ "$FIRSTLIGHT_CHECK" = 0 ] || return 0
    setsid -f env -i PATH="$PATH" HOME="$FIRSTLIGHT_PREFIX/home" LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        "$bin/supervisord" -c "$config" </dev/null >"$log" 2>&1
    await runs ||
        fail "supervisord did not start within $FIRSTLIGHT_TIMEOUT_S s: $(tail -n 2 "$log" | paste -s -d ' ' -)" \
            "try it on the host: $bin/supervisord -n -c $config"
}

if [ "$FIRSTLIGHT_STATE" = started ] && runs; then
    case $(control status "$FIRSTLIGHT_PROGRAM") in
        *" RUNNING "*) exit 0 ;;
    esac
fi
stop
[ "$FIRSTLIGHT_STATE" = stopped ] || start
