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

. "$root/tests/gpu-numbers.sh"

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
