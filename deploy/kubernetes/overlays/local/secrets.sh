#!/usr/bin/env bash
# Makes what the overlay's secrets are generated from, into secrets/ beside this file: a CA, certificates, a
# token of an administrator (printed once), and the key that data between workers is encrypted with.
set -euo pipefail
cd "$(dirname "$0")"
espalier=${ESPALIER:-espalier}
umask 077
mkdir -p secrets
[ -f secrets/ca/tls.key ] || "$espalier" certs ca --dir secrets/ca
"$espalier" certs coordinator espalier --ca secrets/ca --dir secrets/coordinator \
    --host 'espalier-coordinator,espalier-coordinator.espalier.svc,*.espalier-coordinators.espalier.svc,localhost'
"$espalier" certs worker espalier-worker --shared --ca secrets/ca --dir secrets/worker
"$espalier" certs operator --ca secrets/ca --dir secrets/operator
[ -f secrets/data-key ] || head -c 32 /dev/urandom >secrets/data-key
[ -f secrets/tokens.yaml ] || "$espalier" token create --name admin --role admin >secrets/tokens.yaml
