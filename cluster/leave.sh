#!/usr/bin/env bash
# Ends what Ray leaves on a worker whose raylet is gone: where the head went first (`ray down`, or a crash), the log
# monitor waits for it for ever. Started beside the raylet; another one that has taken its place is left alone.
raylet=$(pgrep -nx raylet) || exit 0
while kill -0 "$raylet" 2>/dev/null; do sleep 5; done
pgrep -x raylet >/dev/null || ray stop --force
