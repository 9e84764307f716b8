# shellcheck shell=bash
# The part of gpu-check.sh that compares the numbers of a device with the CPU's. It uses the other's `hybrid`, `fail`, `number`, `why`
# and its variables `work`, `device` and `steps`, and adds rows to `numerics`.

# A small task that can be learned: captions of four words, and codes that follow from them. 1,000 text rows, 256 codes.
write_task() {
    mkdir -p "$work/rows"
    awk -v folder="$work/rows" 'BEGIN {
        seed = 1
        for (row = 0; row < 256; row++) {
            text = "[1000, 1002"; sum = 0
            for (i = 0; i < 4; i++) { seed = (seed * 1103515245 + 12345) % 2147483648; word = int(seed / 65536) % 50; sum += word; text = text ", " word }
            text = text ", 1003, 1004"
            for (i = 0; i < 84; i++) text = text ", " 1007 + (sum * 3 + i * (1 + sum % 5)) % 256
            text = text ", 1005, 1001"
            for (i = 0; i < 3; i++) text = text ", 1006"
            print text "]" > sprintf("%s/row-%04d.json", folder, row)
        }
    }'
    tar -cf "$work/train.tar" -C "$work/rows" .
    # Layer norms, and as many key as query heads; root mean squares, shared keys and a window.
    cat >"$work/plain.json" <<'JSON'
{ "hidden_dim": 256, "n_layers": 4, "n_heads": 4, "seq_len": 128, "vocab_size": 1263, "post_embed_norm": false, "weight_tying": false }
JSON
    cat >"$work/grouped.json" <<'JSON'
{ "model_type": "mistral", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
  "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 40, "max_position_embeddings": 128, "vocab_size": 1263, "tie_word_embeddings": false }
JSON
    for model in plain grouped; do
        cat >"$work/$model-run.json" <<JSON
{ "model": { "config": "$model.json" }, "vocabulary": { "textRows": 1000, "imageCodes": 256 }, "data": { "train": ["train.tar"] },
  "optimizer": { "learningRate": 1e-3 }, "schedule": { "steps": $steps, "warmupSteps": 4 }, "batch": { "sequences": 8, "microBatch": 4 } }
JSON
    done
}

# One run: train NAME DEVICE MODEL PRECISION; leaves NAME.losses and NAME.norms, or the reason in NAME.err.
train() {
    hybrid "$2" train --config "$work/$3-run.json" --set precision "$4" --out "$work/$1" >"$work/$1.said" 2>"$work/$1.err" || return 1
    sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$work/$1/metrics.jsonl" >"$work/$1.losses"
    sed -n 's/.*"gradNorm":\([^,]*\),.*/\1/p' "$work/$1/metrics.jsonl" >"$work/$1.norms"
    [ "$(wc -l <"$work/$1.losses")" -eq "$steps" ]
}

# The largest relative difference of two columns of numbers, or nan.
difference() {
    paste "$1" "$2" | awk '
        NF != 2 || $1 == "null" || $2 == "null" { bad = 1 }
        { d = $1 - $2; d = d < 0 ? -d : d; m = $2 < 0 ? -$2 : $2; r = d / (m > 1e-12 ? m : 1e-12); if (r > most) most = r }
        END { if (bad || NR == 0) print "nan"; else printf "%.2e\n", most }'
}

# agree WHAT VALUE BESIDE DIFFERENCE TOLERANCE: a row, and whether the difference is within.
agree() {
    local verdict=ok
    awk -v d="$4" -v t="$5" 'BEGIN { exit !(d ~ /^[0-9]/ && d + 0 <= t + 0) }' || verdict=FAIL
    numerics+=("| $1 | $2 | $3 | $4 | $5 | $verdict |")
    [ $verdict = ok ] || fail "$1: $2 against $3, a difference of ${4:-nothing readable} where $5 is allowed."
}

# The first and the last of a column of numbers.
ends() { awk 'NR == 1 { first = $1 } { last = $1 } END { printf "%.4f … %.4f", first, last }' "$1"; }

# compare_runs WHAT MINE OTHER TOLERANCE TOLERANCE: the losses, and the norm of the first gradient, of two runs.
compare_runs() {
    local what=$1 mine=$2 other=$3 tolerance=$4 first_norm=$5
    agree "$what, losses of $steps steps" "$(ends "$work/$mine.losses")" "$(ends "$work/$other.losses")" \
        "$(difference "$work/$mine.losses" "$work/$other.losses")" "$tolerance"
    head -1 "$work/$mine.norms" >"$work/first" && head -1 "$work/$other.norms" >"$work/beside"
    agree "$what, first gradient norm" "$(number "$(cat "$work/first")" %.4f)" "$(number "$(cat "$work/beside")" %.4f)" "$(difference "$work/first" "$work/beside")" "$first_norm"
}

check_training() {
    local model=$1 precision
    for precision in fp32 bf16; do
        for on in cpu "$device-again"; do
            local name=$model-$precision-$on
            say "training: $model, $precision, ${on%-again}"
            if ! train "$name" "${on%-again}" "$model" "$precision"; then
                numerics+=("| train, $model, $precision on ${on%-again} | $(why "$work/$name.err") | | | | FAIL |")
                fail "train, $model, $precision on ${on%-again}: $(why "$work/$name.err")"
                return
            fi
        done
    done
    compare_runs "train, $model, fp32" "$model-fp32-$device-again" "$model-fp32-cpu" 2e-3 1e-3
    compare_runs "train, $model, bf16" "$model-bf16-$device-again" "$model-bf16-cpu" 3e-2 3e-2
    compare_runs "train, $model, bf16 beside the CPU's fp32" "$model-bf16-$device-again" "$model-fp32-cpu" 3e-2 5e-2
    local first last
    first=$(head -1 "$work/$model-bf16-$device-again.losses") last=$(tail -1 "$work/$model-bf16-$device-again.losses")
    agree "train, $model, bf16: the last loss is below the first" "$(number "$last" %.4f)" "$(number "$first" %.4f)" "$(awk -v a="$last" -v b="$first" 'BEGIN { printf "%.2e", a / b }')" 0.95
}

# The same weights, trained on the CPU in fp32, evaluated and continued on both.
check_model() {
    local model=$1 run=$work/$1-fp32-cpu on ids
    [ -d "$run/checkpoints" ] || return 0
    for on in cpu "$device"; do
        if ! hybrid "$on" evaluate --model "$run" --tokens "$work/train.tar" --json >"$work/evaluate-$on.json" 2>"$work/evaluate.err"; then
            numerics+=("| evaluate, $model, on $on | $(why "$work/evaluate.err") | | | | FAIL |")
            fail "evaluate, $model, on $on: $(why "$work/evaluate.err")"
            return
        fi
        sed -n 's/.*"loss":{"total":\([^,}]*\).*/\1/p' "$work/evaluate-$on.json" >"$work/evaluate-$on"
        for ids in sampled greedy; do
            local given=()
            [ $ids = sampled ] || given=(--greedy)
            if ! hybrid "$on" complete --model "$run" --prompt-ids "1000 1002 7 11 13 17 1003 1004" --max-tokens 64 --json ${given[@]+"${given[@]}"} >"$work/$ids-$on.json" 2>"$work/complete.err"; then
                numerics+=("| complete, $model, $ids, on $on | $(why "$work/complete.err") | | | | FAIL |")
                fail "complete, $model, $ids, on $on: $(why "$work/complete.err")"
                return
            fi
            sed -n 's/.*"ids":\[\([^]]*\)\].*/\1/p' "$work/$ids-$on.json" | tail -1 | tr ',' '\n' >"$work/$ids-$on"
        done
    done
    agree "evaluate, $model, fp32" "$(number "$(cat "$work/evaluate-$device")" %.6f)" "$(number "$(cat "$work/evaluate-cpu")" %.6f)" "$(difference "$work/evaluate-$device" "$work/evaluate-cpu")" 1e-4
    for ids in sampled greedy; do
        # Where two tokens are almost equally likely, rounding may choose; what follows is then another text.
        local same all
        same=$(paste "$work/$ids-$device" "$work/$ids-cpu" | awk '$1 != $2 { exit } { n++ } END { print n + 0 }')
        all=$(wc -l <"$work/$ids-cpu")
        agree "complete, $model, $ids: tokens that are the same from the start" "$same" "$all" \
            "$(awk -v s="$same" -v a="$all" 'BEGIN { printf "%.2e", (a + 0 == 0 ? 1 : 1 - s / a) }')" 0.75
    done
}
