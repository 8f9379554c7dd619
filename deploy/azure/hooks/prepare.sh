#!/bin/sh
# What azd runs before it provisions: hooks/prepare.sh appservice|containerapps
#
# Remembers where to deploy to, makes the reference server's signing key at the first time, and says what is missing
# before anything is created. azd gives its environment's values as variables.
set -eu

fail() {
  printf 'prepare: %s\n' "$*" >&2
  exit 1
}

azd env set HOSTING "$1"

count=${INSTANCE_COUNT:-3}
case $count in
  [1-9] | 10) ;;
  *) fail "INSTANCE_COUNT is '$count', and has to be from 1 to 10: azd env set INSTANCE_COUNT 3" ;;
esac

case ${ROLE:-reference} in
  reference)
    # One key for all instances, so that they go on from each other's tally.
    if [ -z "${THROUGHLINE_REFERENCE_KEY:-}" ]; then
      key=$(openssl rand -hex 32) ||
        fail 'openssl made no key: install it, or azd env set THROUGHLINE_REFERENCE_KEY to 32 random bytes in hexadecimal'
      azd env set THROUGHLINE_REFERENCE_KEY "$key"
    fi
    ;;
  gateway)
    # It becomes an argument on a command line that the platform splits.
    case ${UPSTREAM_URL:-} in
      *[!A-Za-z0-9:/._~%-]*) fail "UPSTREAM_URL has characters that do not pass: use letters, digits and :/._~%-" ;;
      http://?* | https://?*) ;;
      *) fail 'UPSTREAM_URL is not set: azd env set UPSTREAM_URL https://server.example/mcp' ;;
    esac
    [ -n "${THROUGHLINE_KEY_RING:-}" ] ||
      fail 'no key ring for all instances: azd env set THROUGHLINE_KEY_RING "$(throughline keys new --one-line)"'
    ;;
  *) fail "ROLE is '$ROLE', and has to be reference or gateway: azd env set ROLE gateway" ;;
esac
