#!/bin/sh
# Lays the seeds of `pipeline` and `jobs` into their corpora. `records` needs none.
cd "$(dirname "$0")" || exit 1
mkdir -p corpus/pipeline corpus/jobs
for file in seeds/pipeline/*.yaml ../pipelines/*.yaml ../tests/it/small.yaml ../tests/it/wrong/*.yaml; do
    cp "$file" "corpus/pipeline/$(echo "$file" | tr -d . | tr / _)"
done
cp seeds/jobs/*.json corpus/jobs/
