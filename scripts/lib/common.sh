# Shared by the scripts of this repository; sourced, never run.
# It sets `repo_root` and gives functions to talk, to fail and to keep files.

repo_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
script_name=${0##*/}

# Everything for people goes to standard error: standard output is for results.
say() { printf '%s: %s\n' "$script_name" "$*" >&2; }

# One sentence on what is wrong, and its remedy.
fail() {
  printf '%s: %s\n' "$script_name" "$*" >&2
  exit 1
}

fail_usage() {
  printf '%s: %s\n' "$script_name" "$*" >&2
  exit 2
}

# The folder for what is costly to make and the same each time.
cache_dir() {
  local dir=${ROOTLAYER_CACHE:-${HOME:-/root}/.cache/rootlayer}
  mkdir -p -- "$dir" || fail "Cannot make the cache directory \"$dir\": set ROOTLAYER_CACHE to a directory that can be written."
  (cd -- "$dir" && pwd -P)
}

# The newest kernel that scripts/fetch-kernel keeps; nothing when there is none.
fetched_kernel() {
  local dir newest=''
  while IFS= read -r dir; do
    if [ -f "$dir/vmlinuz" ] && [ -d "$dir/modules" ]; then newest=$dir; fi
  done < <(find "${ROOTLAYER_CACHE:-${HOME:-/root}/.cache/rootlayer}/kernel" -mindepth 1 -maxdepth 1 -type d -not -name '.*' 2>/dev/null | sort -V)
  if [ -n "$newest" ]; then printf '%s\n' "$newest"; fi
}

# run_logged LOG COMMAND...: silent when it works; the end of what it printed when it does not.
run_logged() {
  local log=$1
  shift
  if "$@" >"$log" 2>&1 </dev/null; then return 0; fi
  printf '%s: "%s" failed; the end of its output:\n' "$script_name" "$*" >&2
  tail -n 40 -- "$log" >&2
  return 1
}

# require_root WHY
require_root() {
  [ "$(id -u)" -eq 0 ] || fail "Cannot $1 as user $(id -un): want root; run it with sudo, or as root."
}
