#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# kubectl scale, up and down, while clients save and load: no request fails, no key is lost.
count=500
# shellcheck disable=SC2086
k exec client -- load-client "$server" ${CLIENT_ARGUMENTS:-} --clients 4 --keys $count fill
before=$(replicas)
load_begin
for shards in 5 2 "$before"; do
    began=$(now_ms)
    from=$(replicas)
    k scale statefulset server --replicas "$shards" >/dev/null
    rolled_out
    settle "$shards"
    say "from $from to $shards shards in $(($(now_ms) - began)) ms"
done
load_end
