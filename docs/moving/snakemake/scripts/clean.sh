# Prints the words of a text, a line each, in lower case: clean.sh TEXT
set -eu
tr 'A-Z' 'a-z' < "$1" | tr -cs 'a-z' '\n' | sed '/^$/d'
echo "words of $1" >&2
