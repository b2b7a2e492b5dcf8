# Measures a model on the held-out rows of a fold: score.sh MODEL FOLD
set -eu
. src/lib/table.sh
slope=$(expected "$1")
rows "$2/held.csv" | awk -F, -v slope="$slope" '
    { error = slope * $2 - $3; sum += error * error; n++ }
    END { printf "{\"held\": {\"error\": %.3f, \"rows\": %d}}\n", sqrt(sum / n), n }
'
