# Reads evidence of a failure. Runs after frame.sh on the standard input of `sh -s` and changes nothing on the host.
# Parameters in addition to the frame's:
#   FL_BYTES     largest size of each section; the newest part is kept
#   FL_UNIT      the unit that serves
#   FL_SINCE_S   seconds to read of the log of a unit that restarts again and again, and of processes that the kernel ended; empty: this boot

# shellcheck shell=sh

# newest COMMAND...: print the last FL_BYTES of its output and return its exit status.
newest() {
    limit "$@" >"$FL_FILES$FL_GROUP.raw"
    ended=$?
    tail -c "$FL_BYTES" "$FL_FILES$FL_GROUP.raw"
    return "$ended"
}

kernel() {
    if has journalctl && [ -d /run/systemd/system ]; then
        set -- journalctl --no-pager --output=cat --boot --dmesg
        if [ -n "$FL_SINCE_S" ]; then
            # Memory that ran out before the failure ended another process.
            all=$(newest "$@" --lines=20000) || return
            printf '%s\n' "$all" | awk 'NF && !/oom-kill:|Killed process/'
            newest "$@" "--since=-${FL_SINCE_S}s" | awk '/oom-kill:|Killed process/'
        else
            newest "$@" --lines=20000
        fi
    else
        has dmesg || absent 'dmesg is not there' || return
        newest dmesg
    fi
}

fabric_manager() {
    has journalctl || absent 'journalctl is not there' || return
    limit systemctl cat nvidia-fabricmanager.service >/dev/null 2>&1 || absent 'no nvidia-fabricmanager.service here' || return
    newest journalctl --no-pager --output=cat --boot --lines=500 --unit=nvidia-fabricmanager.service
}

# starts COUNT: print the last starts of a journal. Lines from before a manual start of the unit are left out: systemd counts a restart
# before it begins, and stops the unit before its own restarts too (252).
starts() {
    awk -v wanted="$1" '
        /^Stopped (firstlight-vllm(@[a-z0-9_-]+)?\.service|vLLM, provisioned)/ { stopped = before ~ /: Scheduled restart job/ ? 0 : NR }
        /^Starting (firstlight-vllm(@[a-z0-9_-]+)?\.service|vLLM, provisioned)/ { start++; if (stopped) first = stopped + 1; stopped = 0 }
        { line[NR] = before = $0; of[NR] = start }
        END { for (i = first + 0; i <= NR; i++) if (of[i] > start - wanted) print line[i] }'
}

# journal SCOPE: print our unit's newest start; of a unit that restarts again and again several, as the first has the
# cause.
journal() {
    [ "$(limit systemctl "$1" show --property=LoadState --value "$FL_UNIT")" = loaded ] || return 1
    # A unit of another installation has the same name.
    case $(limit systemctl "$1" show --property=EnvironmentFiles "$FL_UNIT") in
        *"=$FL_PREFIX/etc/service.env "*) ;;
        */etc/service.env*) return 1 ;;
    esac
    id=$(limit systemctl "$1" show --property=InvocationID --value "$FL_UNIT")
    restarts=$(limit systemctl "$1" show --property=NRestarts --value "$FL_UNIT")
    if [ "${restarts:-0}" -gt 0 ] || [ -z "$id" ]; then
        # A user's journal stores unit names in another field.
        [ "$1" = --user ] && field=--user-unit || field=--unit
        # With --since some releases (252) count --lines from the beginning, others from the end.
        if [ -n "$FL_SINCE_S" ]; then
            set -- "$1" "--since=-${FL_SINCE_S}s"
        else
            set -- "$1" --boot "--lines=$((400 * (${restarts:-0} + 1)))"
        fi
        newest journalctl "$@" --no-pager --output=cat "$field=$FL_UNIT" |
            starts "$((${restarts:-0} + 1))"
    else
        newest journalctl "$1" --no-pager --output=cat --lines=20000 "_SYSTEMD_INVOCATION_ID=$id" + "INVOCATION_ID=$id"
    fi
}

service_journal() {
    { has journalctl && [ -d /run/systemd/system ]; } || absent 'systemd does not run here' || return
    journal --system && return
    if [ -S "/run/user/$FL_UID/systemd/private" ]; then
        XDG_RUNTIME_DIR=/run/user/$FL_UID
        export XDG_RUNTIME_DIR
        journal --user && return
    fi
    absent "there is no $FL_UNIT"
}

# For a service under supervisor: the lines from the newest start on.
service_log() {
    log=$FL_PREFIX/logs/vllm.log
    [ -e "$log" ] || absent "there is no $log" || return
    # shellcheck disable=SC2016 # a script of sed's
    newest cat "$log" | sed -n -e '/^preflight: start of /{h;d;}' -e 'H' -e '${x;p;}'
}

supervisor_log() {
    log=$FL_PREFIX/logs/supervisord.log
    [ -e "$log" ] || absent "there is no $log" || return
    newest cat "$log"
}

# What the health agent says of the engine now, or the watchdog of a service that it left down: nothing of an engine that is up again.
health_agent() {
    { has journalctl && [ -d /run/systemd/system ]; } || absent 'systemd does not run here' || return
    program=${FL_UNIT%.service}
    agent=firstlight-health-agent${program#firstlight-vllm}.service
    # An agent of another installation has the same name.
    case $(limit systemctl show --property=ExecStart "$agent") in
        *"=$FL_PREFIX/"*) ;;
        *) absent "no $agent runs" || return ;;
    esac
    # The agent ends with the service.
    case $(limit systemctl show --property=ActiveState --value "$agent") in
        inactive | failed)
            limit journalctl --no-pager --output=cat --boot --lines=1 "--identifier=firstlight-watchdog${program#firstlight-vllm}" |
                awk '/; left down;/'
            return
            ;;
    esac
    id=$(limit systemctl show --property=InvocationID --value "$agent")
    [ -n "$id" ] || absent "no $agent runs" || return
    limit journalctl --no-pager --output=cat --lines=200 "_SYSTEMD_INVOCATION_ID=$id" |
        awk '/^(up|down)/ { said = $0 } END { if (said ~ /^down/) print said }'
}

failed_units() {
    [ -d /run/systemd/system ] || absent 'systemd does not run here' || return
    limit systemctl --no-pager --plain --no-legend --failed >"${FL_FILES}failed" || return
    cat "${FL_FILES}failed"
    while read -r unit _; do
        limit systemctl --no-pager --lines=20 status "$unit"
    done <"${FL_FILES}failed" | tail -c "$FL_BYTES"
}

disks() {
    set -- /
    for folder in "$FL_PREFIX" /tmp /var/tmp /var/lib /dev/shm "$FL_HOME"; do
        [ -d "$folder" ] && set -- "$@" "$folder"
    done
    limit df -Pk "$@"
    limit df -Pi "$@"
}

nvidia_smi() {
    has nvidia-smi || absent 'nvidia-smi is not there' || return
    newest nvidia-smi || return
    newest nvidia-smi -q
}

rocm_agents() {
    has rocminfo || absent 'rocminfo is not there' || return
    newest rocminfo
}

main() {
    read_host kernel fabric_manager service_journal service_log supervisor_log health_agent failed_units disks nvidia_smi rocm_agents
}

# The last line of the script: a script that was cut during transfer runs nothing.
main
