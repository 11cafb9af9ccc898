# Functions that the scenarios share. Sourced by run.sh and by each scenario.
# shellcheck shell=bash
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Read by scenarios.
export top
top=$(cd "$here/../.." && pwd)

: "${CONTEXT:?is set by run.sh}"
NAMESPACE=${NAMESPACE:-ostrakon-test}
OVERLAY=${OVERLAY:-disk}
IMAGE=${IMAGE:-ghcr.io/ostrakon/ostrakon:0.1.0}
CLIENT_IMAGE=${CLIENT_IMAGE:-ghcr.io/ostrakon/client:0.1.0}
# How long to wait for an event before the test fails, in seconds.
PATIENCE=${PATIENCE:-300}
# Kustomize accepts only files below its directory, or named by a relative path.
work=$here/overlays/$NAMESPACE
server=server

k() { kubectl --context "$CONTEXT" --namespace "$NAMESPACE" "$@"; }

say() { printf '%s\n' "$*"; }

fail() {
    say "FAILED: $*"
    # Clients that still run would continue for an hour.
    [ -z "${load:-}" ] || k exec client -- touch /tmp/stop || true
    exit 1
}

now_ms() { date +%s%3N; }

# until_so WHAT COMMAND...: waits until a command succeeds.
until_so() {
    local what=$1 deadline=$((SECONDS + PATIENCE))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$what: not within $PATIENCE s"
        sleep 0.2
    done
}

# image_fields IMAGE: the image's parts, as kustomize names them. Only a colon after the last slash begins a tag; an
# earlier colon begins a port.
image_fields() {
    local name=${1%%@*} digest='' tag=latest
    [ "$name" = "$1" ] || digest=${1#*@}
    case ${name##*/} in
        *:*)
            tag=${name##*:}
            name=${name%:*}
            ;;
    esac
    say "newName: $name"
    if [ -n "$digest" ]; then say "digest: $digest"; else say "newTag: \"$tag\""; fi
}

# render [SETTING...]: writes the overlay that is installed, with settings KEY=VALUE of the guest.
# shellcheck disable=SC2120
render() {
    local component field setting
    mkdir -p "$work"
    {
        say "apiVersion: kustomize.config.k8s.io/v1beta1"
        say "kind: Kustomization"
        say "namespace: $NAMESPACE"
        say "resources: [../../../../deploy/overlays/$OVERLAY]"
        if [ -n "${COMPONENTS:-}" ]; then
            say "components:"
            for component in $COMPONENTS; do say "  - ../../../../deploy/components/$component"; done
        fi
        say "images:"
        say "  - name: ghcr.io/ostrakon/ostrakon"
        image_fields "$IMAGE" | while read -r field; do say "    $field"; done
        say "generatorOptions:"
        say "  disableNameSuffixHash: true"
        say "configMapGenerator:"
        say "  - name: server"
        say "    behavior: merge"
        say "    literals:"
        say "      - installed-by=tests"
        for setting in "$@"; do say "      - $setting"; done
        if [ -f "$work/guest.wasm" ]; then
            say "    files:"
            say "      - guest.wasm"
        fi
    } >"$work/kustomization.yaml"
}

apply() { k apply --server-side --force-conflicts --kustomize "$work" >/dev/null; }

rolled_out() { k rollout status statefulset/server --timeout "${PATIENCE}s" >/dev/null; }

replicas() { k get statefulset server --output 'jsonpath={.spec.replicas}'; }

pods() {
    local count number
    count=$(replicas)
    for ((number = 0; number < count; number++)); do say "server-$number"; done
}

# status POD FIELD: one line of `ostrakon status`.
status() { k exec "$1" -- ostrakon status 2>/dev/null | awk -v field="$2" '$1 == field { print $2 }'; }

# metric POD NAME: the sum of a metric's series. The client requests it, because its image has bash.
metric() {
    # Expanded in the client's Pod.
    # shellcheck disable=SC2016
    k exec client -- bash -c '
        exec 3<>"/dev/tcp/$1.server-peers/9090"
        printf "GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n" >&3
        cat <&3' bash "$1" | awk -v name="$2" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { printf "%d\n", sum }'
}

settled_at() { [ "$(status server-0 topology.shards)" = "$1" ] && [ "$(status server-0 topology.stable)" = true ]; }

# settle N: waits until N shards have all data.
settle() { until_so "$1 shards with all data" settled_at "$1"; }

generations() {
    local pod
    for pod in $(pods); do say "$(status "$pod" generation.generation)"; done | paste -sd ' ' -
}

# Annotations make the kubelet process a Pod, and so its volumes, at once.
hasten() { k annotate pod --selector app.kubernetes.io/instance=server --overwrite "looked-at=$(now_ms)" >/dev/null; }

# load_begin: starts clients that save and load until load_end.
load_begin() {
    k exec client -- rm -f /tmp/stop
    # load_end checks its exit code.
    # shellcheck disable=SC2086
    k exec client -- load-client "$server" ${CLIENT_ARGUMENTS:-} run --for 1h --until /tmp/stop >"$work/load.txt" 2>&1 &
    load=$!
    until_so "the load's first report" grep -qs ' requests, ' "$work/load.txt"
}

# load_end: prints the clients' counts, and fails if a request failed.
load_end() {
    local code=0
    k exec client -- touch /tmp/stop
    wait "$load" || code=$?
    tail -n 1 "$work/load.txt"
    if [ "$code" -ne 0 ]; then
        cat "$work/load.txt"
        fail "requests failed"
    fi
}

# letters: prints the smart client's last line.
letters() { k exec client -- smart-client server "$@" --rounds 1 | tail -n 1; }

# A Secret's keys and their files or values, as `kubectl create secret generic` takes them.
secret() {
    local name=$1
    shift
    k create secret generic "$name" "$@" --dry-run=client --output yaml | k apply --server-side --force-conflicts --filename - >/dev/null
}

token() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# make_namespace: creates the tests' own namespace.
make_namespace() {
    if kubectl --context "$CONTEXT" get namespace "$NAMESPACE" >/dev/null 2>&1; then
        # Prevents its removal, too.
        trap - EXIT
        fail "the namespace $NAMESPACE exists already: delete it, or set NAMESPACE to another name"
    fi
    kubectl --context "$CONTEXT" create namespace "$NAMESPACE" >/dev/null
    kubectl --context "$CONTEXT" label namespace "$NAMESPACE" ostrakon.test=true pod-security.kubernetes.io/enforce=restricted >/dev/null
    rm -rf "$work"
    mkdir -p "$work"
}

# install_all: installs a token, the shards and the client.
install_all() {
    secret server --from-literal=peer-token="$(token)"
    # shellcheck disable=SC2119
    render
    local began
    began=$(now_ms)
    apply
    rolled_out
    settle "$(replicas)"
    say "$(replicas) shards ready and settled after $(($(now_ms) - began)) ms"
    sed "s|ghcr.io/ostrakon/client:0.1.0|$CLIENT_IMAGE|" "$here/client.yaml" | k apply --server-side --filename - >/dev/null
    k wait pod/client --for condition=Ready --timeout "${PATIENCE}s" >/dev/null
}

# remove_all: deletes the namespace, if these tests created it.
remove_all() {
    if [ "$(kubectl --context "$CONTEXT" get namespace "$NAMESPACE" --output 'jsonpath={.metadata.labels.ostrakon\.test}')" = true ]; then
        kubectl --context "$CONTEXT" delete namespace "$NAMESPACE" --wait=true >/dev/null
    fi
    rm -rf "$work"
}
