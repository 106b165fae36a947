#!/bin/sh
# What the newest start of a unit said, at most 25 lines: said.sh --system|--user UNIT
# Lines are found by the unit's name from the time on when systemd announced that start: of a program that ends at once the journal
# knows the unit, and often no longer which start of it that was.
set -u

scope=$1 unit=$2 of=--unit
[ "$scope" = --system ] || of=--user-unit

# On a slow host the next start may be under way already.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(systemctl "$scope" show --property=SubState --value "$unit")" = start-pre ] || break
    sleep 1
done

# What a program printed may still be on its way into the journal when systemd has told of its end. Only root may ask for the rest of it.
sleep 1
journalctl --sync 2>/dev/null

id=$(systemctl "$scope" show --property=InvocationID --value "$unit")
since=$(journalctl "$scope" --no-pager --output=short-unix "INVOCATION_ID=$id" + "USER_INVOCATION_ID=$id" |
    sed -n 's/^\([0-9][0-9.]*\) .*/@\1/p' | head -n 1)
exec journalctl "$scope" --no-pager --output=cat --lines=25 ${since:+--since="$since"} "$of=$unit"
