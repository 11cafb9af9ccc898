#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# kubectl scale, up and down, while clients save and load: no request fails, and no key is lost. Only keys that are
# saved once and then left alone can show a loss, because the clients save their own keys again and again. So these
# keys have other names.
clients=4 keys=500

# shellcheck disable=SC2086
kept() { k exec client -- load-client "$server" ${CLIENT_ARGUMENTS:-} --clients $clients --keys $keys --prefix kept- "$1"; }

# found_all WHEN: loads each of these keys, and prints how many there are.
found_all() {
    local line said
    if ! said=$(kept check); then
        say "$said"
        fail "not every key is found $1"
    fi
    line=$(tail -n 1 <<<"$said")
    say "$1: $line"
    [[ $line == *", $((clients * keys)) keys, 0 wrong" ]] || fail "not $((clients * keys)) keys $1"
}

kept fill
before=$(replicas)
load_begin
for shards in 5 2 "$before"; do
    began=$(now_ms)
    from=$(replicas)
    k scale statefulset server --replicas "$shards" >/dev/null
    rolled_out
    settle "$shards"
    say "from $from to $shards shards in $(($(now_ms) - began)) ms"
    found_all "in $shards shards"
done
load_end
