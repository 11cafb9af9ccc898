#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# A file that is no guest never goes live. Each shard reports the reason and keeps serving.
# each_says FIELD VALUE: whether all shards report this value.
each_says() {
    local all pod
    all=$(pods) || return 1
    for pod in $all; do [ "$(status "$pod" "$1")" = "$2" ] || return 1; done
}

before=$(generations)
load_begin
printf 'no WebAssembly at all' >"$work/guest.wasm"
render
apply
[ -z "${HASTEN:-}" ] || hasten
until_so "the refusal" each_says refused.step verify
say "refused by $(replicas) shards at the step verify; generations $(generations), as before"
[ "$(generations)" = "$before" ] || fail "the generations have changed: they were $before"
rm "$work/guest.wasm"
render
apply
[ -z "${HASTEN:-}" ] || hasten
until_so "the end of the refusal" each_says refused -
load_end
