#!/usr/bin/env bash
# A stage of the paper on one GPU. The step is that of 8 GPUs, 128 samples, in 8 batches of 16.
#   MODEL=models/4b DATA=data/stage2_captions.toml RUN=runs/stage2 examples/train_1_gpu.sh
# Further options go to `blip3v train`; with --dry-run it prints the plan and ends. Started again, it goes on.
set -euo pipefail

exec python -m blip3v train "${RECIPE:-video-captions}" \
  --model "${MODEL:?folder of the model to start from}" \
  --data "${DATA:?annotation file or mixture}" \
  --out "${RUN:?folder for the run}" \
  --accumulation 8 \
  --activation-checkpointing selective \
  --workers "${WORKERS:-8}" \
  --resume \
  "$@"
