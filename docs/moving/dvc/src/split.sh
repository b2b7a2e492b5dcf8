# Holds out every Nth row of a table: split.sh TABLE N
set -eu
awk -v every="$2" '
    NR == 1 { print > "data/train.csv"; print > "data/held.csv"; next }
    { print > ((NR - 1) % every ? "data/train.csv" : "data/held.csv") }
' "$1"
