# Joins tables of counts to one with a header: report.sh FOLDER
set -eu
echo herb,least,count,word
cat "$1"/*.csv | LC_ALL=C sort
