#!/usr/bin/env bash
# Lets the machines of the cluster, given by address, reach each other, and nobody else reach Ray. Needs root and nftables.
# Ray's metrics ports (44217, 44227 and a random one) ask for no token, and gloo's never do: hence the whole range from
# which Linux hands out ports. Connections that this machine opened, ssh and what else it serves are left alone.
# Usage: firewall.sh ADDRESS...      (no address: takes the rules away)
set -euo pipefail
nft add table inet ecgray
nft delete table inet ecgray
[ $# -gt 0 ] || exit 0
addresses=$(IFS=,; echo "$*")
read -r first last </proc/sys/net/ipv4/ip_local_port_range
nft -f - <<RULES
table inet ecgray {
    chain input {
        type filter hook input priority filter - 10; policy accept;
        iifname "lo" accept
        ct state established,related accept
        ip saddr { $addresses } accept
        tcp dport { 6379, 8265, 10001-19999, 52365 } drop
        tcp dport $first-$last drop
    }
}
RULES
