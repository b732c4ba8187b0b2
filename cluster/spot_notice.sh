#!/usr/bin/env bash
# Tells Ray that this machine is about to be taken back, as soon as AWS says so (two minutes before): ecgray's workers
# then save a checkpoint and the run goes on elsewhere. Usage: spot_notice.sh HEAD_ADDRESS [METADATA_URL] [EVERY_S]
set -euo pipefail
head=$1 metadata=${2:-http://169.254.169.254/latest} every=${3:-5}
while true; do
    key=$(curl -sf -m 2 -X PUT "$metadata/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' || true)
    # 404 as long as there is no notice
    if notice=$(curl -sf -m 2 -H "X-aws-ec2-metadata-token: $key" "$metadata/meta-data/spot/instance-action"); then
        echo "notice: $notice"
        gone=$((SECONDS + 110))
        # The head may be busy, or away for a moment: said until it is heard, or the machine is gone.
        until ray drain-node --address "$head" --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "$notice" \
            --deadline-remaining-seconds "$((gone > SECONDS ? gone - SECONDS : 1))"; do
            sleep "$every"
        done
        exit 0
    fi
    sleep "$every"
done
