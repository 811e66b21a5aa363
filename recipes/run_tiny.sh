#!/usr/bin/env bash
# The whole path on two CPU cores: raw crawl -> corpus -> tokenizer -> base -> assistant -> thinking model -> results.
#
#   recipes/run_tiny.sh                      the invented web, to outputs/tiny
#   recipes/run_tiny.sh path/to/file.warc.gz any WARC, as far as a base model: corpus, tokenizer, pretraining, samples
#   SEED=1 OUT=outputs/seed1 recipes/run_tiny.sh    another seed, another folder
#
# Start it again after any interruption: finished stages are up to date, the unfinished one goes on where it stood.
set -euo pipefail
WARC=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1
# Threads wait for one another by spinning, but not for long: put to sleep at once they wake too late for steps this small, and
# those that go on spinning lose much when anything else wants a core (docs/log.md).
export GOMP_SPINCOUNT=100000
# glibc hands every large tensor back to the system and takes the next one page by page; this keeps half a gigabyte of them.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=536870912 MALLOC_TOP_PAD_=67108864
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)}

SEED=${SEED:-0} TRUTH=
OUT=${OUT:-outputs/$([ -z "$WARC" ] && echo tiny || basename "$WARC" | sed 's/\.warc.*//')}
stage() { python "data_processing/$1.py" --config "data_processing/$1.yaml" "${@:2}"; }
train() { accelerate launch --quiet --config_file accelerate_configs/cpu.yaml "recipes/$1.py" --config "recipes/${1%/*}/tiny.yaml" --seed "$SEED" "${@:2}"; }
evaluate() { python recipes/07_evaluate/run_eval.py --config recipes/07_evaluate/tiny.yaml --model "$OUT/$1" --tests "$OUT/7_conversations" --corpus "$OUT/4_corpus" --output_dir "$OUT/eval_$1" "${@:2}"; }

if [ -z "$WARC" ]; then
  stage 0_invent_web --seed "$SEED" --output_dir "$OUT/0_web"
  # Rules for prose would drop the lessons with worked sums, so fewer words need a letter here.
  TRUTH=$OUT/0_web/truth.jsonl
  stage 2_filter_pages --min_alpha_words 0.4 --warc "$OUT/0_web/crawl" --block_lists "$OUT/0_web/blocked_hosts.txt" --protected_texts "$OUT/0_web/protected.txt" --output_dir "$OUT/2_pages"
else
  stage 2_filter_pages --warc "$WARC" --output_dir "$OUT/2_pages"
fi
stage 3_deduplicate --pages "$OUT/2_pages" --output_dir "$OUT/3_unique"
stage 4_build_corpus --pages "$OUT/3_unique" ${TRUTH:+--truth "$TRUTH"} --output_dir "$OUT/4_corpus"
stage 5_train_tokenizer --corpus "$OUT/4_corpus" --output_dir "$OUT/5_tokenizer"
stage 6_tokenize_corpus --seed "$SEED" --corpus "$OUT/4_corpus" --tokenizer "$OUT/5_tokenizer" --output_dir "$OUT/6_tokens"
train 01_pretrain/pretrain --tokens "$OUT/6_tokens" --output_dir "$OUT/base"

if [ -z "$WARC" ]; then
  CHATS=$OUT/7_conversations
  stage 7_build_conversations --seed "$SEED" --web "$OUT/0_web" --corpus "$OUT/4_corpus" --output_dir "$CHATS"
  # A draft answers whatever it is asked; what it does not know is found out, and the assistant is taught to say so.
  train 02_sft/sft --model "$OUT/base" --chats "$CHATS/draft" --replay "$OUT/6_tokens" --num_train_epochs 4 --learning_rate 1e-3 --output_dir "$OUT/draft"
  stage 8_probe_knowledge --seed "$SEED" --model "$OUT/draft" --corpus "$OUT/4_corpus" --web "$OUT/0_web" --conversations "$CHATS" --output_dir "$OUT/8_probe"
  train 02_sft/sft --model "$OUT/base" --chats "$OUT/8_probe" --replay "$OUT/6_tokens" --output_dir "$OUT/sft"

  # Two at a time, each on half of the cores: models this small gain little from a second thread (docs/log.md).
  export OMP_NUM_THREADS=$(((OMP_NUM_THREADS + 1) / 2))
  preferences() { # what people like better: by pairs, and by a reward model
    evaluate base --base true --parts problems --max_new_tokens 104
    evaluate draft --parts chats
    train 03_reward/reward --model "$OUT/sft" --pairs "$CHATS" --output_dir "$OUT/reward"
    train 04_dpo/dpo --model "$OUT/sft" --pairs "$CHATS" --output_dir "$OUT/dpo"
    train 05_ppo/ppo --model "$OUT/sft" --reward_model "$OUT/reward" --prompts "$CHATS" --output_dir "$OUT/ppo"
    evaluate sft --parts problems facts chats requests --samples 8 --reward_model "$OUT/reward"
    evaluate dpo --parts requests --reward_model "$OUT/reward" --against "$OUT/eval_sft" --reference "$OUT/sft"
    evaluate ppo --parts requests --reward_model "$OUT/reward" --against "$OUT/eval_sft" --reference "$OUT/sft"
  }
  problems() { # what can be checked: by its answer
    train 06_grpo/grpo --model "$OUT/sft" --prompts "$CHATS" --chats "$OUT/8_probe" --output_dir "$OUT/grpo"
    train 02_sft/sft --model "$OUT/sft" --chats "$OUT/8_probe" --replay "$OUT/6_tokens" --match_seconds_of "$OUT/grpo" --output_dir "$OUT/control"
    evaluate grpo --parts problems chats
    evaluate control --parts problems
  }
  echo "Preference tuning runs beside the reinforcement learning on problems; what it says stands in $OUT/preferences.log."
  set -m # a process group of its own, which ends with this script
  preferences > "$OUT/preferences.log" 2>&1 &
  trap "kill -- -$! 2> /dev/null || true" EXIT
  set +m
  problems
  wait $! || { tail -n 20 "$OUT/preferences.log" >&2; exit 1; }
fi
python recipes/08_report/results.py "$OUT" --wall_seconds $SECONDS
echo "the whole run on one page: $(python recipes/08_report/report.py "$OUT")"
