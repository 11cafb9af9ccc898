#!/usr/bin/env bash
# Stands for kubectl and a cluster where the scripts of tests/kubernetes are tried: it answers as a cluster
# would in which everything is well, and remembers what it was told in the directory STATE.
# REAL_KUBECTL renders what is applied; STATUSES holds what a real shard answers to `ostrakon status` where all is
# well, and where a guest is refused.
set -euo pipefail

: "${STATE:?}" "${REAL_KUBECTL:?}" "${STATUSES:?}"
namespace=default
while [ $# -gt 0 ]; do
    case $1 in
        --context) shift 2 ;;
        --namespace) namespace=$2 && shift 2 ;;
        *) break ;;
    esac
done
state=$STATE/$namespace
mkdir -p "$state"
printf '%s\n' "$namespace: $*" >>"$STATE/log"

read_or() { cat "$state/$1" 2>/dev/null || printf '%s\n' "$2"; }
more() { printf '%s\n' "$(($(read_or "$1" 1) + 1))" >"$state/$1"; }

applied() {
    if [ "$1" = "--filename" ]; then
        # What is piped in: a Secret is read anew by all.
        ! grep -q Secret || more secrets
        return
    fi
    "$REAL_KUBECTL" kustomize "$1" >"$state/rendered"
    if grep -q 'guest.wasm: no WebAssembly' "$state/rendered"; then
        printf 'refused\n' >"$state/status"
    elif [ "$(read_or status well)" = refused ]; then
        printf 'well\n' >"$state/status"
    else
        more generation
    fi
    printf '3\n' >"$state/replicas"
    rm -f "$state/gone"
}

# load_client ARGUMENT...: what `fill` saves stays, until a `run` in keys of the same names saves other values.
load_client() {
    local clients=8 keys=100 prefix='' command='' all wrong
    while [ $# -gt 0 ]; do
        case $1 in
            --clients) clients=$2 && shift ;;
            --keys) keys=$2 && shift ;;
            --prefix) prefix=$2 && shift ;;
            run | fill | check) command=$1 ;;
        esac
        shift
    done
    all=$((clients * keys)) wrong=0
    case $command in
        run)
            rm -f "$state/filled-$prefix"
            printf '1 requests, 0 failed, 1 connections, longest 1 ms\n'
            until [ -e "$state/stop" ]; do sleep 0.01; done
            printf '1000 requests, %s failed, 8 connections, longest 9 ms, %s keys, 0 wrong\n' "${FAILED:-0}" "$all"
            [ "${FAILED:-0}" = 0 ]
            ;;
        fill | check)
            [ "$command" = check ] || printf '%s\n' "$all" >"$state/filled-$prefix"
            [ "$command" = fill ] || wrong=$((all - $(read_or "filled-$prefix" 0) + ${LOST:-0}))
            printf '%s requests, %s failed, 4 connections, longest 2 ms, %s keys, %s wrong\n' "$all" "$wrong" "$all" "$wrong"
            [ "$wrong" = 0 ]
            ;;
        *) printf 'unknown to load-client\n' >&2 && exit 1 ;;
    esac
}

# fits ARGUMENT...: whether the certificate in a Secret is that of its key.
fits() {
    local argument certificate='' key=''
    for argument in "$@"; do
        case $argument in
            --from-file=*tls.crt) certificate=${argument#*=} ;;
            --from-file=*tls.key) key=${argument#*=} ;;
        esac
    done
    [ -z "$key" ] || [ "$(openssl x509 -in "$certificate" -noout -pubkey)" = "$(openssl pkey -in "$key" -pubout)" ]
}

execute() {
    local pod=$1
    shift 2
    case "$*" in
        "ostrakon status")
            # Where Secrets have been written more than DEAF times, no Pod can be asked.
            [ "$(read_or secrets 1)" -le "${DEAF:-1000}" ] || exit 1
            # Its lines, with what would be said here by now: no line that it does not have.
            awk -v generation="$(read_or generation 1)" -v shards="$(read_or replicas 3)" \
                -v secrets="$(read_or secrets 1)" -v problem="$(read_or problem -)" '
                $1 == "generation.generation" { $2 = generation }
                $1 == "topology.shards" { $2 = shards }
                $1 == "peers.certificate_expires" { $2 = secrets }
                $1 == "peers.problem" { $2 = problem }
                { print }' "$STATUSES/$(read_or status well)"
            ;;
        "rm -f /tmp/stop") rm -f "$state/stop" ;;
        "touch /tmp/stop") touch "$state/stop" ;;
        load-client*) load_client "$@" ;;
        smart-client*) printf 'abcdefghijklmnopqrstuvwxyz\n%s | hits = 26 (100%%)\n' hhhhhhhhhhhhhhhhhhhhhhhhhh ;;
        bash*) printf '# TYPE a counter\nostrakon_credentials_reloads_total %s\n' "$(read_or secrets 1)" ;;
        *) printf 'unknown in %s: %s\n' "$pod" "$*" >&2 && exit 1 ;;
    esac
}

case "$*" in
    "config get-contexts known") ;;
    "get namespace "*jsonpath*) printf 'true' ;;
    "get namespace "*) [ -e "$STATE/$3.made" ] ;;
    "create namespace "*) touch "$STATE/$3.made" ;;
    "delete namespace "*) rm "$STATE/$3.made" ;;
    "label namespace "* | "wait "* | "rollout "* | "annotate "*) [ "$1 $2" != "rollout restart" ] || more uid ;;
    "create secret "*)
        # One that cannot be used changes nothing that is in force.
        if fits "$@"; then
            rm -f "$state/problem"
            printf 'kind: Secret\n'
        else
            printf 'misfit\n' >"$state/problem"
        fi
        ;;
    "apply "*--kustomize*) applied "${!#}" ;;
    "apply "*) applied --filename ;;
    "get statefulset server "*) read_or replicas 3 ;;
    "scale statefulset server --replicas "*) printf '%s\n' "$5" >"$state/replicas" ;;
    "delete pod "*) more uid ;;
    "delete statefulset "*) touch "$state/gone" ;;
    "get pod server-1 "*) read_or uid 1 ;;
    "get pods "*) [ -e "$state/gone" ] || printf 'pod/server-0\n' ;;
    "get secret server "*) printf 'a-former-token' ;;
    "exec "*) shift && execute "$@" ;;
    *) printf 'unknown: %s\n' "$*" >&2 && exit 1 ;;
esac
