#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# A Pod is deleted. Requests for its keys wait until it is back with its data.
count_restarts() { k get pod server-1 --output 'jsonpath={.metadata.uid}'; }

say "before: $(letters)"
load_begin
uid=$(count_restarts)
began=$(now_ms)
k delete pod server-1 --wait=false >/dev/null
replaced() { [ -n "$(count_restarts 2>/dev/null)" ] && [ "$(count_restarts)" != "$uid" ]; }
until_so "another Pod" replaced
k wait pod/server-1 --for condition=Ready --timeout "${PATIENCE}s" >/dev/null
say "server-1 was back and ready after $(($(now_ms) - began)) ms"
load_end
[ "$OVERLAY" = memory ] && exit 0
line=$(letters readonly)
say "after: $line"
[ "$line" = "hhhhhhhhhhhhhhhhhhhhhhhhhh | hits = 26 (100%)" ] || fail "not 26 hits"
