#!/bin/sh
# What the newest start of a unit said, at most 25 lines: startup_log.sh --system|--user UNIT
# Lines are found by the unit's name from a second before systemd announced that start: of a program that ends at once the journal
# knows the unit, and often no longer which start of it that was; and what it printed may stand before the announcement (by 3 ms).
set -u

scope=$1 unit=$2 of=--unit
[ "$scope" = --system ] || of=--user-unit

# On a slow host the next start may be under way already.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(systemctl "$scope" show --property=SubState --value "$unit")" = start-pre ] || break
    sleep 1
done

# What a program printed may still be on its way into the journal when systemd has told of its end. Only root may ask for the rest of it.
journalctl --sync 2>/dev/null || sleep 1

id=$(systemctl "$scope" show --property=InvocationID --value "$unit")
since=$(journalctl "$scope" --no-pager --output=short-unix "INVOCATION_ID=$id" + "USER_INVOCATION_ID=$id" |
    awk '/^[0-9]/ { printf "@%.6f", $1 - 1; exit }')
# With --since some releases count --lines from the beginning (252), others from the end.
journalctl "$scope" --no-pager --output=cat ${since:+--since="$since"} "$of=$unit" | tail -n 25
