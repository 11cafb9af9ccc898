#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# Shards in a namespace of their own, with TLS. Their certificate is changed while clients save and load.
rounds=${ROUNDS:-3}
export NAMESPACE=$NAMESPACE-tls COMPONENTS=tls
# Sourced again, for the names that depend on the namespace.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# certificate DAYS: makes a new key, and a certificate for it that expires after DAYS days.
certificate() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/tls.key" -subj /CN=server -out "$pki/tls.csr" 2>/dev/null
    printf 'subjectAltName=DNS:server,DNS:server.%s.svc,DNS:*.server-peers.%s.svc\nextendedKeyUsage=serverAuth,clientAuth\n' "$NAMESPACE" "$NAMESPACE" >"$pki/extensions"
    openssl x509 -req -in "$pki/tls.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days "$1" -extfile "$pki/extensions" -out "$pki/tls.crt" 2>/dev/null
    secret server-tls --from-file="$pki/tls.crt" --from-file="$pki/tls.key" --from-file="$pki/ca.crt"
    secret server-peers-tls --from-file="$pki/tls.crt" --from-file="$pki/tls.key" --from-file="$pki/ca.crt"
}

# expires POD: when the Pod's certificate expires. Fails if the Pod does not report it.
expires() {
    local said
    said=$(status "$1" peers.certificate_expires) && [ -n "$said" ] && say "$said"
}

noted() { expiry[$1]=$(expires "$1"); }

# taken: whether each shard reports a different certificate than before.
taken() {
    local all pod now
    all=$(pods) || return 1
    for pod in $all; do
        now=$(expires "$pod") && [ "$now" != "${expiry[$pod]}" ] || return 1
    done
}

# refused: whether each shard reports that it cannot use the content of the Secret.
refused() {
    local all pod said
    all=$(pods) || return 1
    for pod in $all; do
        said=$(status "$pod" peers.problem) && [ -n "$said" ] && [ "$said" != - ] || return 1
    done
}

# end: removes the private keys from this machine, also after a failure.
end() {
    rm -rf "$pki"
    [ -n "${KEEP:-}" ] || remove_all
}

[ -n "${KEEP:-}" ] || trap remove_all EXIT
make_namespace
pki=$(mktemp -d)
trap end EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$pki/ca.key" -subj /CN=test-authority -days 365 -out "$pki/ca.crt" 2>/dev/null
certificate 30
install_all
export CLIENT_ARGUMENTS="--ca /tls/ca.crt"
load_begin
declare -A expiry
for ((round = 1; round <= rounds; round++)); do
    for pod in $(pods); do until_so "when the certificate of $pod expires" noted "$pod"; done
    began=$(now_ms)
    certificate $((30 + round))
    [ -z "${HASTEN:-}" ] || hasten
    until_so "the certificate in all shards" taken
    say "certificate $round in force in $(replicas) shards after $(($(now_ms) - began)) ms"
done
mkdir "$pki/other"
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$pki/other/tls.key" 2>/dev/null
secret server-peers-tls --from-file="$pki/tls.crt" --from-file="$pki/other/tls.key" --from-file="$pki/ca.crt"
[ -z "${HASTEN:-}" ] || hasten
until_so "the refusal of a key that does not fit" refused
say "a key that does not fit was refused by $(replicas) shards, which keep the former one"
for pod in $(pods); do until_so "when the certificate of $pod expires" noted "$pod"; done
certificate $((31 + rounds))
[ -z "${HASTEN:-}" ] || hasten
until_so "the certificate in all shards" taken
load_end
