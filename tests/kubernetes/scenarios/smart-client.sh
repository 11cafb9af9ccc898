#!/usr/bin/env bash
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
# The course's smart client writes each letter's key once, and then finds all of them.
say "$(letters)"
line=$(letters readonly)
say "$line"
[ "$line" = "hhhhhhhhhhhhhhhhhhhhhhhhhh | hits = 26 (100%)" ] || fail "not 26 hits"
