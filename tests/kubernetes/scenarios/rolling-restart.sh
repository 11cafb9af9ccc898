#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# All Pods are replaced, one after another, while clients save and load.
load_begin
began=$(now_ms)
k rollout restart statefulset server >/dev/null
rolled_out
say "$(replicas) Pods replaced in $(($(now_ms) - began)) ms"
settle "$(replicas)"
load_end
