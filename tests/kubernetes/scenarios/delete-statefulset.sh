#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# The StatefulSet is deleted and applied again. Every key is still there, on its disk.
[ "$OVERLAY" = memory ] && say "skipped: data in memory is not kept" && exit 0
keys=250
# shellcheck disable=SC2086
k exec client -- load-client "$server" ${CLIENT_ARGUMENTS:-} --clients 4 --keys $keys fill
began=$(now_ms)
k delete statefulset server --wait=true >/dev/null
gone() { [ -z "$(k get pods --selector app.kubernetes.io/instance=server --output name)" ]; }
until_so "the end of all Pods" gone
say "deleted after $(($(now_ms) - began)) ms"
began=$(now_ms)
apply
rolled_out
settle "$(replicas)"
# The Service can refuse connections for a moment after its Pods are ready.
answers() {
    # shellcheck disable=SC2086
    k exec client -- load-client "$server" ${CLIENT_ARGUMENTS:-} --prefix answers- --clients 1 --keys 1 fill >/dev/null 2>&1
}
until_so "an answer" answers
say "back after $(($(now_ms) - began)) ms"
# shellcheck disable=SC2086
k exec client -- load-client "$server" ${CLIENT_ARGUMENTS:-} --clients 4 --keys $keys check
