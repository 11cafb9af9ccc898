#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# The ConfigMap changes while clients save and load. No request fails, and each shard swaps.
guest=${GUEST:-$top/target/guests/kv.wasm}

swapped() { [ "$(generations)" = "$1" ]; }

next() { for generation in $(generations); do say "$((generation + 1))"; done | paste -sd ' ' -; }

# swap WHAT: applies the rendered overlay, and prints when the last shard has it.
swap() {
    local began expected
    expected=$(next)
    began=$(now_ms)
    apply
    [ -z "${HASTEN:-}" ] || hasten
    until_so "the swap" swapped "$expected"
    say "$1: live in all shards $(($(now_ms) - began)) ms after kubectl apply began; generations $expected"
}

load_begin
render "label=$(now_ms)"
swap "a setting"
if [ -f "$guest" ]; then
    cp "$guest" "$work/guest.wasm"
    render "label=$(now_ms)"
    swap "a guest of $(wc -c <"$guest") bytes"
    rm "$work/guest.wasm"
    render "label=$(now_ms)"
    swap "the image's guest again"
fi
load_end
