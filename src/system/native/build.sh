#!/bin/sh
# Compiles netio.node: sh build.sh OUT.node
#
# Needs a C compiler ($CC, else cc) and the npm package node-api-headers. Libc is not linked: its symbols, like
# Node's, come from the process that loads the addon, so one file serves glibc and musl. $NETIO_FLAGS adds
# flags, e.g. -fsanitize=address. Does nothing if OUT.node is newer than its sources.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
headers=${NODE_API_HEADERS:-$here/../../../node_modules/node-api-headers/include}
out=${1:?usage: build.sh OUT.node}

if [ -f "$out" ] && [ -z "$(find "$here" -newer "$out" -name '*.[ch]' -o -newer "$out" -name build.sh)" ]; then exit 0; fi
if [ ! -f "$headers/node_api.h" ]; then
  echo "Cannot build $out: no node_api.h in $headers (npm ci brings it)" >&2
  exit 1
fi

mkdir -p "$(dirname "$out")"
temp=$out.$$
trap 'rm -f "$temp"' EXIT
# shellcheck disable=SC2086 # flags are words
"${CC:-cc}" -std=c11 -shared -fPIC -O2 -fvisibility=hidden -fno-stack-protector -U_FORTIFY_SOURCE \
  -Wall -Wextra -Werror ${CFLAGS:-} ${NETIO_FLAGS:-} -I"$headers" \
  -o "$temp" "$here"/*.c -nostdlib ${LDFLAGS:-} -lgcc
mv "$temp" "$out"
