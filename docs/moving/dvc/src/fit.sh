# Fits strength = offset + slope * FEATURE / 100 by gradient descent: fit.sh TABLE FEATURE RATE STEPS MODEL
set -eu
mkdir -p "$5/logs"
awk -F, -v feature="$2" -v rate="$3" -v steps="$4" -v model="$5" '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    { n++; x[n] = $column[feature] / 100; y[n] = $column["strength"] }
    END {
        for (step = 1; step <= steps; step++) {
            loss = up = along = 0
            for (i = 1; i <= n; i++) {
                error = offset + slope * x[i] - y[i]
                loss += error * error / n; up += error / n; along += error * x[i] / n
            }
            offset -= rate * up; slope -= rate * along
            if (step % 50 == 0) printf "%d,%.6f\n", step, loss > (model "/logs/loss.csv")
        }
        print feature, rate, sprintf("%.6f %.6f", offset, slope) > (model "/weights")
    }
' "$1"
