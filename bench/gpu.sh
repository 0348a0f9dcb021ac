#!/usr/bin/env bash
# Memory and speed of the 1.5B recipes on one CUDA card, beside what `multiattempt plan` says of them (docs/gpu.md).
#
#   bench/gpu.sh [--small] [--tokenizer FOLDER] [NAME ...]
#
# --small        a tiny model for a few steps, on the CPU too: shows that everything runs, measures no GPU
# --tokenizer    Qwen2.5's, a folder or a Hub id; or `bytes`, one that is made on the spot
# NAME           only these, such as ppo-qlora; all by default
#
# Each configuration has a process of its own; one that runs out of memory is a result, and the next one goes on.
# Results are written to $OUT (outputs/gpu): one JSON file each, all of them in gpu.json, and the tables in gpu.md.
# CARDS="80 24 16" measures each on all of these cards in place of its own, LENGTHS=mean those lengths alone. None is
# begun after $MINUTES (20), or goes on for more than $SECONDS_EACH (240).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

#  name, recipe, card in GB that it is meant for, options
RUNS=(
    "ppo-full             ppo/multi_attempt  80"
    "ppo-full-continuous  ppo/multi_attempt  80  --use_transformers_continuous_batching true"
    "ppo-lora             ppo/lora           24"
    "ppo-lora-continuous  ppo/lora           24  --use_transformers_continuous_batching true"
    "grpo-lora            grpo/lora          24"
    "ppo-qlora            ppo/qlora          16"
    "grpo-qlora           grpo/qlora         16"
)
SECONDS_EACH=${SECONDS_EACH:-240}
MINUTES=${MINUTES:-20}
OUT=${OUT:-outputs/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
[[ -x $PYTHON ]] || PYTHON=$(command -v python3)
export TRL_EXPERIMENTAL_SILENCE=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1 PYTHONPATH=.

size=() tokenizer=() names=()
while (($#)); do
    case $1 in
        --small) size=(--small) ;;
        --tokenizer) tokenizer=(--tokenizer "${2:?--tokenizer needs a folder}") && shift ;;
        -*) echo "unknown option $1: --small, --tokenizer FOLDER, names" >&2 && exit 2 ;;
        *) names+=("$1") ;;
    esac
    shift
done
for name in "${names[@]}"; do
    [[ " ${RUNS[*]%% *} " == *" $name "* ]] || { echo "unknown name $name: ${RUNS[*]%% *}" >&2 && exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$OUT"
"$PYTHON" bench/gpu_model.py "$work/model" "${size[@]}" "${tokenizer[@]}"

failed=0
for lengths in ${LENGTHS:-caps mean}; do
    for run in "${RUNS[@]}"; do
        read -r name recipe card options <<<"$run"
        ((${#names[@]} == 0)) || [[ " ${names[*]} " == *" $name "* ]] || continue
        for card in ${CARDS:-$card}; do
            result=$OUT/$name-$lengths-${card}gb.json
            rm -f "$result"
            ((SECONDS < MINUTES * 60)) || { echo "not begun after $MINUTES minutes: $name $lengths" >&2 && continue; }
            timeout --kill-after=10 "$SECONDS_EACH" "$PYTHON" bench/gpu.py "$result" "${size[@]}" \
                --name "$name" --recipe "recipes/qwen2.5-math-1.5b/$recipe.yaml" --card "$card" --lengths "$lengths" \
                --model "$work/model" $options || failed=1
        done
    done
done
"$PYTHON" bench/gpu_table.py "$OUT"
exit "$failed"
