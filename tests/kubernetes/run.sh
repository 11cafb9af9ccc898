#!/usr/bin/env bash
# Tests a cluster: the one of a kubectl context. Not a part of the test command.
#
#   tests/kubernetes/run.sh CONTEXT [SCENARIO...]
#
# Without SCENARIO all scenarios run: see scenarios/. The context has to be named so that no cluster is used
# by accident. Everything is in the namespaces NAMESPACE (ostrakon-test) and NAMESPACE-tls, which are created
# and, unless KEEP is set, deleted again.
#
#   IMAGE, CLIENT_IMAGE   the images, built from deploy/Dockerfile (its targets) and known to the cluster
#   OVERLAY               disk (the default) or memory
#   GUEST                 a component that is swapped in, too [target/guests/kv.wasm, if it exists]
#   HASTEN=1              annotate Pods after a change, so that it reaches them at once
#   PATIENCE              how many seconds to wait for each event [300]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

case ${1:--h} in
    -*)
        # Prints the comment above.
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 64
        ;;
esac
if ! command -v kubectl >/dev/null; then
    echo "error: kubectl is not installed: install it, and put it on the PATH" >&2
    exit 64
fi
export CONTEXT=$1
shift
if ! kubectl config get-contexts "$CONTEXT" >/dev/null 2>&1; then
    echo "error: kubectl has no context $CONTEXT: see kubectl config get-contexts" >&2
    exit 64
fi
# shellcheck source=lib.sh
. "$here/lib.sh"

if [ $# -eq 0 ]; then
    set -- smart-client swap refused-guest scale delete-pod rolling-restart delete-statefulset rotate-token rotate-certificate
fi
for scenario in "$@"; do
    if [ ! -f "$here/scenarios/$scenario.sh" ]; then
        echo "error: scenario $scenario does not exist: see $here/scenarios" >&2
        exit 64
    fi
done

if [ -z "${KEEP:-}" ]; then
    trap remove_all EXIT
fi
say "== install"
make_namespace
install_all
passed=0 failed=0
for scenario in "$@"; do
    say "== $scenario"
    if bash "$here/scenarios/$scenario.sh"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
done
say "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
