#!/usr/bin/env bash
# Whether Hybrid computes rightly on a GPU, and how fast, in one command and one table. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

usage() {
    cat <<'TEXT'
usage: tests/gpu-check.sh [options]

Compares Hybrid on a GPU with Hybrid on the CPU (losses of training, an evaluation, drawn tokens), measures training and
sampling, PyTorch beside them where python3 has it, and writes one table.

  --libtorch DIR   a folder with libtorch.so: torch/lib of a Python wheel, or lib of a libtorch zip, of version 2.10
                   (default: that of python3's torch)
  --publish DIR    a self-contained publish of Hybrid made with -p:Torch=external (default: one is built with dotnet)
  --out FILE       the table (default: gpu-check.md)
  --size SIZE      of the measurements: tiny, small, 160m, 1b (default: 1b; with --device cpu: tiny)
  --device DEVICE  cuda (default), or cpu: tries the whole mechanism where there is no GPU
  --quick          few steps, and no compiled PyTorch
  --help           this text

The environment variable PYTHON names another python3. Exit codes: 0 the numbers agree (a goal of speed that is missed is
said, and is no failure); 1 they do not, or a measurement failed; 2 usage, or nothing can be checked here.
TEXT
}

say() { echo "gpu-check: $*" >&2; }

# Nothing can be checked: a sentence, and 2.
give_up() {
    say "$*"
    exit 2
}

libtorch='' publish='' out=gpu-check.md size='' device=cuda quick=no
while [ $# -gt 0 ]; do
    case $1 in
        --libtorch | --publish | --out | --size | --device)
            [ $# -ge 2 ] || give_up "$1 needs a value; --help says which."
            declare "${1#--}=$2"
            shift 2
            ;;
        --quick) quick=yes && shift ;;
        --help | -h) usage && exit 0 ;;
        *) give_up "$1 is not an option; --help lists them." ;;
    esac
done
case $device in cuda | cpu) ;; *) give_up "--device is '$device'; it must be cuda or cpu." ;; esac
[ -n "$size" ] || { [ "$device" = cuda ] && size=1b || size=tiny; }
case $size in tiny | small | 160m | 1b) ;; *) give_up "--size is '$size'; it must be tiny, small, 160m or 1b." ;; esac
[ -d "$(dirname "$out")" ] || give_up "--out is '$out', but there is no folder $(dirname "$out")."
for tool in awk sed tar sort comm; do
    command -v $tool >/dev/null || give_up "there is no $tool on this machine; install it."
done

work=$(mktemp -d "${TMPDIR:-/tmp}/gpu-check.XXXXXX")
trap 'rm -rf "$work"' EXIT

# ---------------------------------------------------------------------------------------------- what there is

has_python() { command -v "$python" >/dev/null && "$python" -c 'import torch' 2>/dev/null; }

gpu='none' driver='none'
if [ "$device" = cuda ]; then
    if command -v nvidia-smi >/dev/null && listed=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null) && [ -n "$listed" ]; then
        gpu=$(echo "$listed" | awk -F', ' '{ printf "%s%s (%s)", (NR > 1 ? "; " : ""), $1, $2 }')
        driver=$(echo "$listed" | awk -F', ' 'NR == 1 { print $3 }')
    elif [ -e /dev/nvidia0 ]; then
        gpu='an NVIDIA GPU (no nvidia-smi to name it)'
    else
        give_up "no GPU is in reach of this process: nvidia-smi names none. --device cpu tries the mechanism without one."
    fi
fi

if [ -z "$libtorch" ]; then
    has_python || give_up "no libtorch: $python has no torch to take it from. Give --libtorch DIR (torch/lib of a Python wheel, or lib of a libtorch zip), or name another Python in PYTHON."
    libtorch=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
fi
[ -f "$libtorch/libtorch.so" ] || give_up "$libtorch holds no libtorch.so; --libtorch is torch/lib of a Python wheel, or lib of a libtorch zip."
libtorch=$(cd "$libtorch" && pwd)
[ "$device" = cpu ] || [ -f "$libtorch/libtorch_cuda.so" ] || give_up "the libtorch in $libtorch is made for CPUs only (no libtorch_cuda.so); give another --libtorch, or --device cpu."

if [ -z "$publish" ]; then
    command -v dotnet >/dev/null || give_up "there is no dotnet to build Hybrid with; give --publish DIR, a self-contained publish made with -p:Torch=external on another machine."
    say "building Hybrid without a libtorch of its own"
    # A copy, so that a build that is there is left as it is.
    mkdir "$work/source"
    (cd "$root" && tar --exclude bin --exclude obj -cf - .paket src.Core.FSharp src.Runner.CSharp Directory.Build.props \
        Directory.Build.targets dotnet-tools.json global.json paket.dependencies paket.lock) | tar -xf - -C "$work/source"
    publish=$work/publish
    (cd "$work/source" && dotnet publish src.Runner.CSharp -c Release -r linux-x64 --self-contained -p:Torch=external \
        -p:PublishSingleFile=true -p:EnableCompressionInSingleFile=true -o "$publish") >"$work/publish.log" 2>&1 ||
        { tail -20 "$work/publish.log" >&2 && give_up "the build failed; its last lines are above."; }
    rm -rf "$work/source"
fi
[ -x "$publish/hybrid" ] || give_up "$publish holds no program hybrid; --publish is a self-contained publish (dotnet publish --self-contained -p:Torch=external)."
publish=$(cd "$publish" && pwd)
[ ! -e "$publish/libtorch_cpu.so" ] || give_up "$publish has a libtorch of its own, which would be used beside $libtorch; publish with -p:Torch=external."
[ -f "$publish/libLibTorchSharp.so" ] || give_up "$publish has no libLibTorchSharp.so; it is not a whole publish."

# The program on a device: hybrid DEVICE command...
hybrid() {
    local on=$1
    shift
    HYBRID_LIBTORCH=$libtorch HYBRID_DEVICE=$on "$publish/hybrid" "$@"
}

# A number or word of a JSON object on one line: field FILE KEY
field() { sed -n "s/.*\"$2\":[[:space:]]*\"\{0,1\}\([^,\"}]*\).*/\1/p" "$1" | tail -1; }

# The last line that a failed command left: why FILE
why() { awk 'NF { last = $0 } END { print (last == "" ? "it said nothing" : last) }' "$1" | tr '|' '/' | cut -c1-200; }

# A figure in a form of printf, a ratio, and bytes; - where there is none.
number() { awk -v x="$1" -v f="$2" 'BEGIN { if (x == "" || x == "null") print "-"; else printf f, x }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a == "" || b == "" || b + 0 == 0) print "-"; else printf "%.2f", a / b }'; }
gibibytes() { awk -v x="$1" 'BEGIN { if (x == "" || x == "null") print "-"; else printf "%.1f GiB", x / 1073741824 }'; }

failures=0
libraries=() numerics=() speed=() goals=() left_out=()

fail() {
    failures=$((failures + 1))
    say "FAILED: $*"
}

# ---------------------------------------------------------------------------------------------- libraries

check_symbols() {
    if ! command -v nm >/dev/null; then
        left_out+=("symbols of libLibTorchSharp.so: there is no nm (binutils)")
        return
    fi
    # What has a version belongs to the system's libraries.
    nm -D --undefined-only "$publish/libLibTorchSharp.so" | awk '$1 == "U" && $2 !~ /@/ { print $2 }' | sort -u >"$work/needed"
    nm -D --defined-only "$libtorch"/libtorch*.so "$libtorch"/libc10*.so 2>/dev/null | awk 'NF == 3 { sub(/@.*/, "", $3); print $3 }' | sort -u >"$work/there"
    comm -23 "$work/needed" "$work/there" >"$work/missing"
    # Functions are looked up when they are called; data, virtual tables and type information when the library is loaded.
    if command -v readelf >/dev/null; then
        readelf -rW "$publish/libLibTorchSharp.so" | awk '$3 ~ /^R_X86_64_/ && $3 !~ /JUMP_SLO/ { sub(/@.*/, "", $5); print $5 }' | sort -u >"$work/at-load"
    else
        grep -E '^_ZT[VITS]' "$work/needed" | sort -u >"$work/at-load" || true
    fi
    comm -12 "$work/needed" "$work/at-load" >"$work/data"
    comm -12 "$work/missing" "$work/at-load" >"$work/missing-data"
    local needed data missing missing_data
    needed=$(wc -l <"$work/needed") data=$(wc -l <"$work/data") missing=$(wc -l <"$work/missing") missing_data=$(wc -l <"$work/missing-data")
    if [ "$missing_data" -gt 0 ]; then
        libraries+=("| symbols that must be there at load | $missing_data of $data missing, such as \`$(head -1 "$work/missing-data")\` | FAIL |")
        fail "$libtorch lacks $missing_data symbols that libLibTorchSharp.so needs to be loaded; it is not the libtorch 2.10 that this build wants."
    else
        libraries+=("| symbols that must be there at load | all $data | ok |")
    fi
    if [ "$missing" -gt "$missing_data" ]; then
        libraries+=("| functions | $((missing - missing_data)) of $((needed - data)) missing, such as \`$(comm -23 "$work/missing" "$work/missing-data" | head -1)\`; each fails when it is called | look |")
    else
        libraries+=("| functions | all $((needed - data)) | ok |")
    fi
}

say "libraries"
check_symbols
doctor=ok
hybrid "$device" doctor --json >"$work/doctor.json" 2>"$work/doctor.err" || doctor=FAIL
version=$(field "$work/doctor.json" libtorch_version)
[ -f "$libtorch/../build-version" ] && version="$version ($(head -1 "$libtorch/../build-version"))"
[ -f "$libtorch/../version.py" ] && version="$version ($(sed -n "s/^__version__ = '\(.*\)'/\1/p" "$libtorch/../version.py"))"
reached=$(sed -n 's/.*"device":"\([a-z]*\).*/\1/p' "$work/doctor.json")
if [ "$doctor" = ok ] && [ "$reached" = "$device" ]; then
    libraries+=("| \`hybrid doctor\` | computes on $reached | ok |")
else
    reason=$(sed -n 's/.*"name":"libtorch","ok":false,"found":"\([^"]*\)".*/\1/p' "$work/doctor.json" | tr '|' '/' | cut -c1-300)
    libraries+=("| \`hybrid doctor\` | ${reason:-$(why "$work/doctor.err")} | FAIL |")
    fail "hybrid doctor: ${reason:-$(why "$work/doctor.err")}"
fi

# ---------------------------------------------------------------------------------------------- numbers

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

[ $quick = yes ] && steps=10 || steps=40
if [ "$doctor" = ok ]; then
    write_task
    for model in plain grouped; do
        check_training $model
        check_model $model
    done
else
    left_out+=("numbers and measurements: Hybrid cannot compute on $device here (see the libraries)")
fi

# ---------------------------------------------------------------------------------------------- speed

# Whether this build has a measurement, by its own help.
measures() { "$publish/hybrid" bench --help 2>/dev/null | grep -qE "bench [a-z|]*\b$1\b"; }

# bench NAME action options...: leaves NAME.json; false where it is not there or failed.
bench() {
    local name=$1
    shift
    if ! measures "$1"; then
        left_out+=("\`hybrid bench $*\`: this build does not have it")
        return 1
    fi
    say "hybrid bench $*"
    if ! hybrid "$device" bench "$@" --json >"$work/$name.json" 2>"$work/$name.err"; then
        speed+=("| \`hybrid bench $*\` | FAILED: $(why "$work/$name.err") | | | | |")
        fail "hybrid bench $*: $(why "$work/$name.err")"
        return 1
    fi
}

# peer NAME options...: the same in PyTorch; leaves NAME.json, or a reason in what was left out.
peer() {
    local name=$1 code=0
    shift
    if ! has_python; then
        left_out+=("PyTorch $*: $python has no torch")
        return 1
    fi
    say "PyTorch $*"
    "$python" "$root/tests/gpu-peer.py" "$@" --device "$device" >"$work/$name.json" 2>"$work/$name.err" || code=$?
    if [ $code -eq 3 ]; then
        left_out+=("PyTorch $*: $(field "$work/$name.json" missing)")
        return 1
    elif [ $code -ne 0 ]; then
        left_out+=("PyTorch $*: it failed ($(why "$work/$name.err"))")
        return 1
    fi
}

# goal WHAT REACHED LEAST: said, not fatal.
goal() {
    local verdict=missed
    [ "$2" != - ] || verdict='not measured'
    awk -v x="$2" -v least="$3" 'BEGIN { exit !(x != "-" && x + 0 >= least + 0) }' && verdict=reached
    goals+=("| $1 | $2 | $3 | $verdict |")
}

batch_of() { case $1 in tiny | small) echo 32 ;; *) echo 8 ;; esac; }

# Training of one size, PyTorch beside it; sets `share`, `eager` and `compiled` to the ratios.
measure_training() {
    local size=$1 batch rate rivals eager_rate='' compiled_rate=''
    batch=$(batch_of "$size") share=- eager=- compiled=-
    local count=8
    [ $quick = yes ] && count=3
    bench "train-$size" train --size "$size" --precision bf16 --batch "$batch" --steps $count || return 0
    rate=$(field "$work/train-$size.json" tokens_per_second)
    share=$(number "$(field "$work/train-$size.json" share_of_peak)" %.3f)
    if peer "eager-$size" train --size "$size" --batch "$batch" --steps $count; then
        eager_rate=$(field "$work/eager-$size.json" tokens_per_second)
        eager=$(ratio "$rate" "$eager_rate")
    fi
    if [ $quick = no ] && peer "compiled-$size" train --size "$size" --batch "$batch" --steps $count --compile; then
        compiled_rate=$(field "$work/compiled-$size.json" tokens_per_second)
        compiled=$(ratio "$rate" "$compiled_rate")
    fi
    rivals="$(number "$eager_rate" %.0f) ($eager) | $(number "$compiled_rate" %.0f) ($compiled)"
    local memory=$work/train-$size.json kind=peak_rss_bytes
    [ "$device" = cpu ] || kind=gpu_memory_bytes
    speed+=("| train $size, bf16, batch $batch, tokens/s | $(number "$rate" %.0f) | $rivals | $(number "$(field "$work/train-$size.json" flops_per_second)" %.3g) of $(number "$(field "$work/train-$size.json" matrix_peak_flops)" %.3g) FLOP/s ($share) | $(gibibytes "$(field "$memory" $kind)") |")
}

measure_sampling() {
    local new=1024 batch=64 rate rival=''
    # The small sizes have 96 positions.
    case $size in tiny | small) new=64 ;; esac
    [ $quick = no ] || new=$((new < 64 ? new : 64))
    sampling=-
    bench "generate-$size" generate --size "$size" --batch $batch --new $new || return 0
    rate=$(field "$work/generate-$size.json" tokens_per_second)
    if peer "sampled-$size" generate --size "$size" --batch $batch --new $new; then
        rival=$(field "$work/sampled-$size.json" tokens_per_second)
        sampling=$(ratio "$rate" "$rival")
    fi
    speed+=("| generate $size, batch $batch, $new tokens each, tokens/s | $(number "$rate" %.0f) | $(number "$rival" %.0f) ($sampling) | - | $(number "$(field "$work/generate-$size.json" milliseconds_per_step)" %.2f) ms a step | |")
}

if [ "$doctor" = ok ]; then
    measure_training "$size"
    main_share=$share main_eager=$eager main_compiled=$compiled
    if [ $quick = no ] && [ "$device" = cuda ] && [ "$size" != 160m ]; then
        measure_training 160m
    fi
    measure_sampling
    if bench load load; then
        speed+=("| load, tokens/s | $(number "$(field "$work/load.json" tokens_per_second)" %.0f) | - | - | | |")
    fi
    if [ "$device" = cuda ] && [ "$size" = 1b ]; then
        goal 'train 1b, share of the matrix peak' "$main_share" 0.40
        goal 'train 1b, beside eager PyTorch' "$main_eager" 1.0
        goal 'train 1b, beside compiled PyTorch' "$main_compiled" 1.0
        goal 'generate 1b, beside eager PyTorch with a cache' "$sampling" 1.0
    else
        left_out+=("the goals: they are for --size 1b on a GPU")
    fi
fi

# ---------------------------------------------------------------------------------------------- the table

rows() { [ $# -eq 0 ] || printf '%s\n' "$@"; }

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -1)
torch=$(has_python && "$python" -c 'import torch; print(torch.__version__)' || echo none)
verdict='The numbers agree.'
[ $failures -eq 0 ] || verdict="$failures of the checks FAILED."
[ "$device" = cuda ] || verdict="$verdict No GPU was used: this tried the mechanism on the CPU."
{
    echo "# Hybrid on ${gpu/#none/the CPU}"
    echo
    echo "$verdict"
    echo
    echo '| | |'
    echo '|---|---|'
    echo "| when | $(date -u '+%Y-%m-%d %H:%M') UTC |"
    echo "| machine | $(uname -sm), ${cpu:-unknown CPU}, $(getconf _NPROCESSORS_ONLN) cores |"
    echo "| GPU | $gpu |"
    echo "| driver | $driver |"
    echo "| libtorch | ${version:-unknown}, $libtorch |"
    echo "| Hybrid | $("$publish/hybrid" --version 2>/dev/null || echo unknown) |"
    echo "| PyTorch beside it | $torch |"
    echo "| asked for | --device $device --size $size$([ $quick = no ] || echo ' --quick') |"
    echo
    echo '## Libraries'
    echo
    echo '| what | found | |'
    echo '|---|---|---|'
    rows ${libraries[@]+"${libraries[@]}"}
    if [ ${#numerics[@]} -gt 0 ]; then
        echo
        echo "## Numbers on $device beside those on the CPU"
        echo
        echo "| what | $device | CPU | difference | allowed | |"
        echo '|---|---|---|---|---|---|'
        rows "${numerics[@]}"
    fi
    if [ ${#speed[@]} -gt 0 ]; then
        echo
        echo '## Speed'
        echo
        echo 'In brackets: the figure of Hybrid divided by that one.'
        echo
        echo '| what | Hybrid | PyTorch eager | PyTorch compiled | reached | memory |'
        echo '|---|---|---|---|---|---|'
        rows "${speed[@]}"
    fi
    if [ ${#goals[@]} -gt 0 ]; then
        echo
        echo '## Goals'
        echo
        echo '| what | reached | at least | |'
        echo '|---|---|---|---|'
        rows "${goals[@]}"
    fi
    if [ ${#left_out[@]} -gt 0 ]; then
        echo
        echo '## Not measured'
        echo
        printf -- '- %s\n' "${left_out[@]}"
    fi
} >"$out.part"
mv "$out.part" "$out"
say "$verdict The table is in $out."
[ $failures -eq 0 ]
