# Splits a table into folds, each a folder with train.csv and held.csv: split.sh TABLE FOLDS FOLDER
set -eu
for fold in $(seq "$2"); do
    mkdir -p "$3/$fold"
    awk -v folds="$2" -v fold="$fold" -v to="$3/$fold" '
        NR == 1 { print > (to "/train.csv"); print > (to "/held.csv"); next }
        { print > (to ((NR - 1) % folds == fold % folds ? "/held.csv" : "/train.csv")) }
    ' "$1"
done
