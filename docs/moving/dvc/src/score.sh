# Measures a model on held-out rows: score.sh MODEL TABLE FILE
set -eu
mkdir -p "$(dirname "$3")"
read -r feature rate offset slope < "$1/weights"
awk -F, -v feature="$feature" -v rate="$rate" -v offset="$offset" -v slope="$slope" '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    { error = offset + slope * $column[feature] / 100 - $column["strength"]; sum += error * error; rows++ }
    END { printf "{\"model\": \"%s at %s\", \"error\": %.6f, \"rows\": %d}\n", feature, rate, sqrt(sum / rows), rows }
' "$2" > "$3"
