# Counts words of at least LEAST letters and prints the TOP most frequent ones: count.sh WORDS HERB LEAST TOP
set -eu
awk -v least="$3" 'length($0) >= least { n[$0]++ } END { for (word in n) print n[word] "," word }' "$1" |
    LC_ALL=C sort -t, -k1,1nr -k2 | awk -v herb="$2" -v least="$3" -v top="$4" 'NR <= top { print herb "," least "," $0 }'
