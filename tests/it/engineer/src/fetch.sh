# Joins the months of an archive, which answers at the third attempt: fetch.sh ARCHIVE TABLE
set -eu
attempt=$(($(cat attempts/count 2> /dev/null || echo 0) + 1))
echo $attempt > attempts/count
if [ $attempt -lt 3 ]; then
    echo "attempt $attempt: the archive is busy"
    exit 1
fi
echo "attempt $attempt: the archive answers"
. src/lib/table.sh
head -n 1 "$1/june.csv" > "$2"
for month in june july; do rows "$1/$month.csv" >> "$2"; done
