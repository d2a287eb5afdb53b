#!/usr/bin/env bash
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]; NNODES, NODE_RANK, PORT, MASTER_ADDR as in dist_train.sh
set -euo pipefail
CONFIG=${1:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [options]}
CHECKPOINT=${2:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [options]}
GPUS=${3:?usage: dist_test.sh CONFIG CHECKPOINT GPUS [options]}
python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
