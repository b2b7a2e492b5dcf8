# Lists variants by their error, the smallest first: best.sh FOLDER
set -eu
cd "$1"
for score in *.json; do
    echo "$(sed 's/.*"error": \([0-9.]*\).*/\1/' "$score"),$(basename "$score" .json)"
done | sort -n
