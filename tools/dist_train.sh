#!/usr/bin/env bash
# tools/dist_train.sh CONFIG GPUS [options of tools/train.py]; NNODES, NODE_RANK, PORT, MASTER_ADDR for several machines
set -euo pipefail
CONFIG=${1:?usage: dist_train.sh CONFIG GPUS [options]}
GPUS=${2:?usage: dist_train.sh CONFIG GPUS [options]}
python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
