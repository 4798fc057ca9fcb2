# How the build is made and known to be fresh; sourced by scripts/build and scripts/rootlayer, with the repository as working directory.

build_stamp=dist/.stamp
modules_stamp=node_modules/.rootlayer-stamp

# True when no source, and no folder of sources (a file was removed), is newer than the last whole build.
build_is_fresh() {
  [ -f "$build_stamp" ] && [ -f "$modules_stamp" ] &&
    [ -z "$(find src test scripts vm package.json package-lock.json tsconfig.json -newer "$build_stamp" -print -quit)" ]
}

# Native modules belong to one major version of Node, so the stamp names it beside the sum of the lock file.
install_dependencies() {
  local want
  want="$(sha256sum <package-lock.json) $(node --print process.versions.modules)"
  if [ -f "$modules_stamp" ] && [ "$(cat "$modules_stamp")" = "$want" ]; then return; fi
  say 'installing node modules'
  use_local_headers
  # Half the time of compiling SQLite, where no prebuilt module fits: a journal waits for the disk, not for -O3.
  export CFLAGS=${CFLAGS:--O1}
  run_logged dist/.npm.log npm ci --no-audit --no-fund || fail 'Cannot install the node modules: see the lines above.'
  printf '%s\n' "$want" >"$modules_stamp"
  rm -f -- "$build_stamp"
}

# node-gyp downloads the headers of Node unless it is told where they are; most packages of Node bring them along.
use_local_headers() {
  local prefix
  prefix=$(node --print 'path.dirname(path.dirname(fs.realpathSync(process.execPath)))')
  if [ -z "${npm_config_nodedir:-}" ] && [ -f "$prefix/include/node/node.h" ]; then
    export npm_package_config_node_gyp_nodedir=$prefix
  fi
}

build_all() {
  # The stamp is as old as the start of the build: what is edited meanwhile is built next time.
  local started=dist/.started
  : >"$started"
  node_modules/.bin/tsc -p . --incremental --tsBuildInfoFile dist/.tsbuildinfo >&2 || fail 'Cannot compile the sources: see the lines above.'
  remove_orphans
  build_static src/isolation/launcher.c rootlayer-launch
  build_static vm/agent.c rootlayer-agent
  if [ -f dist/src/cli/main.js ]; then chmod 755 dist/src/cli/main.js; fi
  mv -f -- "$started" "$build_stamp"
}

# What was compiled from a source that is gone must not be run as a test, or imported.
remove_orphans() {
  local file source
  while IFS= read -r -d '' file; do
    source=${file#dist/}
    [ -f "${source%.js}.ts" ] || rm -f -- "$file" "$file.map" "${file%.js}.d.ts"
  done < <(find dist -name '*.js' -print0)
}

# build_static SOURCE NAME: static, because it runs with another root; under a new name first, because a running program cannot be written to.
build_static() {
  local source=$1 target=dist/bin/$2
  if [ -f "$target" ] && [ -z "$(find "${source%/*}" -maxdepth 1 -name '*.[ch]' -newer "$target" -print -quit)" ]; then return 0; fi
  mkdir -p dist/bin
  cc -static -O2 -Wall -Wextra -Werror -o "$target.new" "$source" >&2 || fail "Cannot compile $source: see the lines above."
  mv -f -- "$target.new" "$target"
}
