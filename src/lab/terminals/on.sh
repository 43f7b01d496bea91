#!/bin/sh
# `make on HOST=client CMD="ip route"`: a command on a host of the lab. In shell, for the start of Node and tsx
# takes longer than most commands. It finds the lab as place.ts does, and enters it as lab.ts does.
host=$1
[ $# = 0 ] || shift
fail() { echo "error Cannot do this: $1. Try: $2" >&2; exit 1; }

folder=${SIMPLE_VPN_LAB:-$PWD/.lab}
[ -n "$SIMPLE_VPN_LAB" ] || [ -w "$folder" ] || folder=$HOME/.simple-vpn
read -r holder start < "$folder/holder" 2> /dev/null || [ -n "$holder" ]
# pids are given out anew: it must have started when that holder did (field 22 of proc(5)'s stat)
[ -n "$holder" ] && [ "$(sed 's/^.*) //' "/proc/$holder/stat" 2> /dev/null | cut -d ' ' -f 20)" = "$start" ] ||
  fail "the lab is not up" "make server, in another terminal"

netns=/proc/$holder/root/run/netns
hosts=$(ls "$netns" | sort | tr '\n' ' ' | sed 's/ $//; s/ /, /g')
[ -n "$host" ] || fail "no host is given, and the lab has $hosts" 'make on HOST=client CMD="ip route"'
[ -e "$netns/$host" ] || fail "$host is none of the lab's hosts: $hosts" 'make on HOST=client CMD="ip route"'
[ $# -gt 0 ] || fail "no command for $host" "make on HOST=$host CMD=\"ip route\""

unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES # a make in there is a first one
case $host in client*) colour=36 ;; server) colour=35 ;; *) colour=33 ;; esac
if [ -t 1 ] && [ -z "$NO_COLOR" ]; then printf '\033[%sm%s#\033[39m %s\n' "$colour" "$host" "$*"
else printf '%s# %s\n' "$host" "$*"; fi
[ "$(id -u)" = 0 ] || user="--user --preserve-credentials"
exec nsenter --target "$holder" --mount --net="$netns/$host" --wd $user setpriv --pdeathsig KILL "$@"
