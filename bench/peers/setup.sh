#!/usr/bin/env bash
# Installs the peers that the development tools do not bring, and builds those that are compiled. Debian's packages need
# root; what cannot be installed is left out of the measurements, which say so.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(
  gcc libc6-dev nats-server nginx-light libnginx-mod-nchan redis-server redis-tools postgresql
  golang-go golang-github-centrifugal-centrifuge-dev golang-github-centrifugal-protocol-dev
  golang-github-fzambia-eagle-dev golang-github-igm-sockjs-go-dev golang-github-mna-redisc-dev
)
# Node may be there from elsewhere, with its own npm.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  if [[ $EUID -eq 0 ]]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  else
    echo "install as root: apt-get install ${missing[*]}" >&2
  fi
fi

.venv/bin/python -m pip install --quiet socketify picows wsproto
mkdir -p bench/out
# The module proxy is not asked: everything comes from Debian's packages.
GO111MODULE=off GOPATH=/usr/share/gocode go build -o bench/out/centrifuge bench/peers/centrifuge.go
