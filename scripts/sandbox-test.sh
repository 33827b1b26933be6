#!/usr/bin/env bash
# One suite of the sandbox's: ./scripts/sandbox-test.sh --test memory_actor_test [pytest's arguments].
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
  printf '%s\n' "usage: ./scripts/sandbox-test.sh --test SUITE [pytest's arguments]" \
    "SUITE: memory_actor_test, event_store_test, actor_test, or all" >&2
  exit 64
}

[ "${1:-}" = --test ] && [ $# -ge 2 ] || usage
case $2 in
memory_actor_test) suite=tests/sandbox/memory ;;
event_store_test) suite=tests/sandbox/test_event_store.py ;;
actor_test) suite=tests/sandbox/test_actor.py ;;
all) suite=tests/sandbox ;;
*) usage ;;
esac
shift 2

ensure_venv dev
ensure_page dev
cd "$ROOT"
exec "$VENV/bin/pytest" "$suite" "$@"
