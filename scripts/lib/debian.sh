# Which Debian the base image is made of, and where its packages come from; sourced by scripts/base-image and scripts/download-debs.

suite=bookworm

# A fixed clock, so that the same packages give the same bytes.
export SOURCE_DATE_EPOCH=1700000000

# write_sources DIR [FILE]: copies the Debian part of the machine's own package sources (or of FILE) to DIR/debian.list and DIR/debian.sources.
# Sources of others (for Node, say) are left out: another suite, another component than main, or another keyring.
write_sources() {
  local dir=$1 only=${2:-} file
  local files=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
  if [ -n "$only" ]; then files=("$only"); fi
  : >"$dir/debian.list"
  : >"$dir/debian.sources"
  for file in "${files[@]}"; do
    if [ ! -f "$file" ]; then continue; fi
    case $file in
      *.sources) awk -v suite="$suite" "$stanza_filter" "$file" >>"$dir/debian.sources" ;;
      *) awk -v suite="$suite" "$line_filter" "$file" >>"$dir/debian.list" ;;
    esac
  done
  for file in "$dir/debian.list" "$dir/debian.sources"; do
    if [ ! -s "$file" ]; then rm -f -- "$file"; fi
  done
  [ -e "$dir/debian.list" ] || [ -e "$dir/debian.sources" ] ||
    fail "Cannot find package sources of Debian $suite in ${files[*]}: add them, or name a file with --sources."
}

# deb [options] uri suite component...
# shellcheck disable=SC2016 # awk's own variables
line_filter='
$1 == "deb" {
  line = $0
  options = ""
  if (match(line, /\[[^]]*\]/)) {
    options = substr(line, RSTART, RLENGTH) " "
    line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
  }
  if (options ~ /signed-by/ && options !~ /debian-archive/) next
  count = split(line, word, " ")
  if (word[3] != suite && word[3] != suite "-updates" && word[3] != suite "-security") next
  for (i = 4; i <= count; i++) if (word[i] == "main") print "deb " options word[2] " " word[3] " main"
}'

# Paragraphs of "Field: value" lines, with continuation lines that start with a space (deb822 of sources.list(5)).
# shellcheck disable=SC2016 # awk's own variables
stanza_filter='
BEGIN { RS = ""; FS = "\n" }
{
  out = ""; suites = ""; main = 0; ours = 1
  for (i = 1; i <= NF; i++) {
    line = $i
    if (line ~ /^#/) continue
    if (line ~ /^Types:/) { if (line !~ /[ :]deb( |$)/) ours = 0; line = "Types: deb" }
    if (line ~ /^Enabled: *no/) ours = 0
    if (line ~ /^Components:/) { if ((line " ") ~ /[ :]main /) main = 1; line = "Components: main" }
    if (line ~ /^Signed-By: *\// && line !~ /debian-archive/) ours = 0
    if (line ~ /^Suites:/) {
      count = split(substr(line, 8), word, " ")
      for (j = 1; j <= count; j++)
        if (word[j] == suite || word[j] == suite "-updates" || word[j] == suite "-security") suites = suites " " word[j]
      line = "Suites:" suites
    }
    out = out line "\n"
  }
  if (ours && main && suites != "") print out
}'

# write_apt_conf FILE: how the machine reaches the network (proxies, certificates), as apt itself is told.
write_apt_conf() {
  local tree
  for tree in Acquire::http Acquire::https Acquire::Retries; do apt-config dump "$tree"; done >"$1"
}
