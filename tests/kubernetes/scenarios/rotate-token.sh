#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# The peers' token is changed, step by step, while clients save and load.
taken() {
    local all pod
    all=$(pods) || return 1
    for pod in $all; do [ "$(metric "$pod" ostrakon_credentials_reloads_total)" -gt "${reloads[$pod]}" ] || return 1; done
}

declare -A reloads

# step TOKENS: changes the Secret, and waits until each shard has taken it.
step() {
    local pod
    for pod in $(pods); do reloads[$pod]=$(metric "$pod" ostrakon_credentials_reloads_total); done
    secret server --from-literal=peer-token="$1"
    [ -z "${HASTEN:-}" ] || hasten
    until_so "the token in all shards" taken
}

old=$(k get secret server --output 'go-template={{index .data "peer-token" | base64decode}}')
new=$(token)
load_begin
began=$(now_ms)
step "$(printf '%s\n%s' "$old" "$new")"
step "$(printf '%s\n%s' "$new" "$old")"
step "$new"
say "changed in three steps in $(($(now_ms) - began)) ms, by $(replicas) shards"
for pod in $(pods); do
    [ "$(status "$pod" peers.tokens)" = 1 ] || fail "$pod does not have exactly one token"
    [ "$(status "$pod" peers.problem)" = - ] || fail "$pod: $(status "$pod" peers.problem)"
done
load_end
