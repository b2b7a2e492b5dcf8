# Lists the models in a folder of metrics, the smallest error first: best.sh FOLDER
set -eu
cat "$1"/*.json | awk -F '"' '{ split($7, number, /[ :,]+/); print number[2] "," $4 }' | sort -n
