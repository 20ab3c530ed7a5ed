#!/usr/bin/env bash
# One virtual environment a peer, under $PEERS_DIR (by default ~/.cache/shoal-peers); torch from PyPI, as a user gets it.
# usage: install.sh [base|flwr|hm|ft ...]   by default all; base serves DDP, torchrun and local SGD over gloo
set -euo pipefail
home=${PEERS_DIR:-$HOME/.cache/shoal-peers}
here=$(cd "$(dirname "$0")" && pwd)
common=('torch>=2.9,<=2.13.0' numpy scikit-learn psutil)

make() {
    local pip="$home/venv-$1/bin/pip"
    [ -d "$home/venv-$1" ] || python3 -m venv "$home/venv-$1"
    case $1 in
        base) "$pip" install -q "${common[@]}" ;;
        # Flower asks for a newer certifi than registries had when this was written.
        flwr) "$pip" install -q "${common[@]}" certifi -r "$here/flwr-deps.txt" && "$pip" install -q --no-deps flwr==1.42.0 ;;
        hm) "$pip" install -q "${common[@]}" hivemind==1.1.12 ;;
        ft) "$pip" install -q "${common[@]}" torchft==0.2.0 ;;
        *) echo "install.sh: no peer $1: base, flwr, hm or ft" >&2 && exit 2 ;;
    esac
}

mkdir -p "$home"
for peer in "${@:-base flwr hm ft}"; do
    for one in $peer; do make "$one"; done
done
