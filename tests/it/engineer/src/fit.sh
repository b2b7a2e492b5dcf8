# Fits price = first * second * grams, from a model to a new one, and prints the curve: fit.sh FOLD RATE STEPS BASE MODEL
set -eu
. src/lib/table.sh
mkdir -p "$5/encoder/layer_1" "$5/encoder/layer_2"
cp -r "$4/tokens" "$4/settings.json" "$5"
first=$(cat "$4/encoder/layer_1/weights") second=$(cat "$4/encoder/layer_2/weights")
echo step,loss
rows "$1/train.csv" | awk -F, -v first="$first" -v second="$second" -v rate="$2" -v steps="$3" -v model="$5" '
    { n++; x[n] = $2 / 40; y[n] = $3 / 40 }
    END {
        for (step = 1; step <= steps; step++) {
            loss = slope = 0
            for (i = 1; i <= n; i++) {
                error = first * second * x[i] - y[i]
                loss += error * error / n; slope += error * x[i] / n
            }
            new = first - rate * slope * second; second -= rate * slope * first; first = new
            if (step % 5 == 0) printf "%d,%.4f\n", step, loss
        }
        printf "%.4f\n", first > (model "/encoder/layer_1/weights")
        printf "%.4f\n", second > (model "/encoder/layer_2/weights")
    }
'
