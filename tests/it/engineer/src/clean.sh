# Drops the rows without a weight and prints how many: clean.sh TABLE CLEAN
set -eu
. src/lib/table.sh
head -n 1 "$1" > "$2"
rows "$1" | tr 'A-Z' 'a-z' | awk -F, '$2 + 0 > 0' >> "$2"
before=$(rows "$1" | wc -l) after=$(rows "$2" | wc -l)
echo "{\"rows\": {\"before\": $before, \"after\": $after}}"
