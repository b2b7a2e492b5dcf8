# Says what was used and what came out: summary.sh FOLDER
set -eu
echo "rows: $(tr -dc '0-9,' < "$1/counts.json")"
echo "variants: $(wc -l < "$1/best.csv" | tr -d ' ')"
echo "best: $(head -n 1 "$1/best.csv")"
echo "layers: $(cat "$1"/model/encoder/*/weights | tr '\n' ' ')"
