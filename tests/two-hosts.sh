#!/usr/bin/env bash
# Runs the program as two hosts: a network namespace for each, joined by a pair of virtual cards, so that all traffic is TCP. Needs root,
# ip (iproute2) and Open MPI. Usage: tests/two-hosts.sh COMMAND…, such as: tests/two-hosts.sh hybrid bench collective
# HOSTS_RANKS sets the processes of each host (default 1), HOSTS_DELAY a delay of the link for tc, such as 1ms.
set -u
[ $# -gt 0 ] || { echo "usage: tests/two-hosts.sh COMMAND…" >&2; exit 2; }
for tool in ip mpirun; do
    command -v "$tool" > /dev/null || { echo "two-hosts.sh: $tool is not on this machine." >&2; exit 77; }
done

id=$$
first="hybrid-$id-a" second="hybrid-$id-b"
network=10.213.77
agent=$(mktemp)
clean() {
    ip netns pids "$second" 2> /dev/null | xargs -r kill -9
    ip netns pids "$first" 2> /dev/null | xargs -r kill -9
    ip netns del "$first" 2> /dev/null
    ip netns del "$second" 2> /dev/null
    rm -f "$agent"
}
trap clean EXIT
ip netns add "$first" && ip netns add "$second" || { echo "two-hosts.sh: network namespaces cannot be made here." >&2; exit 77; }
ip link add "va$id" netns "$first" type veth peer name "vb$id" netns "$second" || { echo "two-hosts.sh: virtual cards cannot be made here." >&2; exit 77; }
ip -n "$first" addr add "$network.1/24" dev "va$id"
ip -n "$second" addr add "$network.2/24" dev "vb$id"
for side in "$first va$id" "$second vb$id"; do
    set -- $side "$@"
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
    [ -z "${HOSTS_DELAY:-}" ] || ip netns exec "$1" tc qdisc add dev "$2" root netem delay "$HOSTS_DELAY"
    shift 2
done

# mpirun starts its daemon on the second host by this, in the place of ssh. Each namespace has a host name of its own.
cat > "$agent" << AGENT
#!/usr/bin/env bash
shift
exec ip netns exec $second unshare --uts bash -c 'hostname $second; exec bash -c "\$*"' agent "\$@"
AGENT
chmod +x "$agent"
ranks=${HOSTS_RANKS:-1}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 HYBRID_INTERFACE="$network.1"
ip netns exec "$first" unshare --uts bash -c "hostname $first; exec \"\$@\"" first \
    mpirun -np $((2 * ranks)) --host "$network.1:$ranks,$network.2:$ranks" --bind-to none --oversubscribe \
    --mca plm_rsh_agent "$agent" --mca oob_tcp_if_include "$network.0/24" --mca btl tcp,self --mca btl_tcp_if_include "$network.0/24" \
    -x HYBRID_INTERFACE -x HYBRID_THREADS -x OMP_NUM_THREADS "$@"
