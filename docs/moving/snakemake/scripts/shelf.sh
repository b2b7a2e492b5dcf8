# Puts words on a shelf, a folder for each herb and a file for each letter: shelf.sh FOLDER SHELF
set -eu
for words in "$1"/*.txt; do
    herb="$2/$(basename "$words" .txt)"
    mkdir -p "$herb"
    LC_ALL=C sort -u "$words" | while read -r word; do
        echo "$word" >> "$herb/$(printf %.1s "$word")"
    done
done
