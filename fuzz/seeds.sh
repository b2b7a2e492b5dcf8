#!/bin/sh
# Lays the seeds of `pipeline` into its corpus. `records` needs none.
cd "$(dirname "$0")" || exit 1
mkdir -p corpus/pipeline
for file in seeds/pipeline/*.yaml ../pipelines/*.yaml ../tests/it/small.yaml ../tests/it/wrong/*.yaml; do
    cp "$file" "corpus/pipeline/$(echo "$file" | tr -d . | tr / _)"
done
