#!/bin/sh
# Writes down what an environment holds, as a CycloneDX 1.6 document: every installed package with version, licence
# and the file it came from, and which needs which.
#
#   deploy/sbom.sh [PYTHON] [OUT]         .venv/bin/python and out/sbom.cdx.json without arguments
#
# The image brings its own: docker run --rm --entrypoint cat liq-engine /opt/liq-engine/sbom.cdx.json
# Reproducible: no time and no random number in it, so two builds of one lock give the same bytes.
set -eu

python=${1:-.venv/bin/python}
out=${2:-out/sbom.cdx.json}
here=$(cd "$(dirname "$0")/.." && pwd)

mkdir -p "$(dirname "$out")"
# Half a document must not look like one: it takes its name once it is whole.
draft=$out.draft
trap 'rm -f "$draft"' EXIT
cyclonedx-py environment \
    --pyproject "$here/pyproject.toml" --mc-type application \
    --spec-version 1.6 --output-reproducible --output-format JSON --validate \
    --output-file "$draft" "$python"
mv "$draft" "$out"
echo "$out"
