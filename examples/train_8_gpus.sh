#!/usr/bin/env bash
# A stage of the paper on the 8 GPUs of one machine, as published: batch 16 each (stage 2), 4 each (stage 3).
#   MODEL=models/4b DATA=data/stage2_captions.toml RUN=runs/stage2 examples/train_8_gpus.sh
#   MODEL=runs/stage2/model RECIPE=instruction-tuning DATA=data/stage3_instructions.toml RUN=runs/stage3 \
#     examples/train_8_gpus.sh
# Further options go to `blip3v train`; with --dry-run it prints the plan and ends. Started again, it goes on.
set -euo pipefail

# Between SIGTERM and SIGKILL torchrun gives its processes 30 seconds, too few for the last checkpoint. Versions
# of PyTorch that do not know this variable keep the 30 seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"

exec torchrun --standalone --nproc-per-node "${PROCESSES:-8}" -m blip3v train "${RECIPE:-video-captions}" \
  --model "${MODEL:?folder of the model to start from}" \
  --data "${DATA:?annotation file or mixture}" \
  --out "${RUN:?folder for the run}" \
  --parallel fsdp \
  --workers "${WORKERS:-8}" \
  --resume \
  "$@"
