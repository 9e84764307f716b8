/// Every command with its options.
module Hybrid.Tests.CommandOptions

/// What a script or a manual may rely on. A change here is a change of the program's face.
let frozen =
    [
        "study",
        [
            "--preset smoke|tiny|paper"
            "--config F"
            "--out DIR"
            "--resume auto"
            "--dry-run"
            "--seed N"
            "--parallel N"
            "--tensorboard"
            "--json"
        ]
        "prepare",
        [
            "--input PATH..."
            "--image-root DIR"
            "--text-tokenizer F"
            "--image-tokenizer PATH"
            "--ema"
            "--precision fp32|bf16"
            "--image-size N"
            "--reducing-gap G"
            "--captions first|all"
            "--max-text-tokens N"
            "--long-text truncate|drop"
            "--pairs-per-shard N"
            "--workers N"
            "--strict"
            "--out DIR"
            "--json"
        ]
        "train", [ "--config F"; "--set KEY VALUE"; "--out DIR"; "--resume auto|must|PATH"; "--tensorboard"; "--json" ]
        "evaluate",
        [
            "--model PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--tokens PATH"
            "--details"
            "--against PATH"
            "--against-config F"
            "--grid H W"
            "--sequences N"
            "--json"
        ]
        "generate",
        [
            "--model DIR"
            "--prompt TEXT..."
            "--prompts-file F"
            "--count N"
            "--temperature T"
            "--top-k K"
            "--top-p P"
            "--cfg C..."
            "--seed S"
            "--lookahead W"
            "--precision fp32|bf16"
            "--memory-budget MB"
            "--out DIR"
            "--json"
        ]
        "complete",
        [
            "--model PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--prompt TEXT"
            "--prompt-ids \"1 2 3\""
            "--greedy"
            "--max-tokens N"
            "--json"
        ]
        "probe",
        [
            "--model PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--against PATH..."
            "--tasks F..."
            "--text F..."
            "--complete TEXT..."
            "--max-tokens N"
            "--shots K"
            "--limit N"
            "--seed S"
            "--json"
        ]
        "align",
        [
            "--model PATH"
            "--tokens PATH"
            "--model-config F"
            "--text-rows N"
            "--image-codes K"
            "--codes F"
            "--text-ids F"
            "--text-embedding F"
            "--initial F"
            "--tokenizer F"
            "--batch N"
            "--steps N"
            "--learning-rate R"
            "--betas A B"
            "--epsilon E"
            "--order sequential|shuffled"
            "--seed S"
            "--held-out N"
            "--control shuffled-captions|random-text..."
            "--nearest N"
            "--nearest-of \"1 2 3\""
            "--codes-of-word TEXT..."
            "--out DIR"
            "--tensorboard"
            "--json"
        ]
        "tokenize", [ "--tokenizer F"; "--text S"; "--file F"; "--decode \"1 2 3\""; "--special"; "--json" ]
        "image",
        [
            "encode|decode|reconstruct|train"
            "--input PATH..."
            "--tokenizer PATH"
            "--tokenizer-config F"
            "--ema"
            "--precision fp32|bf16"
            "--batch N"
            "--memory-budget MB"
            "--strict"
            "--kind vqvae|movq"
            "--image-size N"
            "--codes K"
            "--steps N"
            "--config F"
            "--set KEY VALUE"
            "--resume auto"
            "--out DIR"
            "--tensorboard"
            "--json"
        ]
        "fid",
        [
            "--real PATH"
            "--generated PATH"
            "--extractor F"
            "--crop none|center"
            "--pre-size N"
            "--pre-filter lanczos|bicubic|bilinear"
            "--resize clean|lanczos|bilinear|none"
            "--input-size N"
            "--scale inception|symmetric|unit|bytes"
            "--entry auto|forward|layers|features"
            "--measures fid|kid|neighbours..."
            "--subsets N"
            "--subset-size N"
            "--neighbours K"
            "--extrapolate"
            "--seed S"
            "--limit N"
            "--batch N"
            "--workers N"
            "--save-features DIR"
            "--strict"
            "--json"
        ]
        "convert",
        [
            "--from PATH"
            "--from-config F"
            "--text-rows N"
            "--image-codes K"
            "--to DIR"
            "--format hf|open_lm|hybrid"
            "--dtype keep|fp32|bf16|fp16"
            "--shard-size SIZE"
            "--json"
        ]
        "bench",
        [
            "prepare|train|generate|load|collective"
            "--text-tokenizer F"
            "--text F..."
            "--image-tokenizer PATH"
            "--pictures PATH..."
            "--image-size N"
            "--threads N"
            "--seconds S"
            "--size small|tiny|160m|1b"
            "--model PATH"
            "--model-config F"
            "--batch N"
            "--micro-batch N"
            "--positions N"
            "--precision bf16|fp32"
            "--steps N"
            "--checkpointing none|selective|full"
            "--profile"
            "--zero 0|1|2|3"
            "--bytes SIZE..."
            "--tokens PATH"
            "--new N"
            "--prompt-length N"
            "--top-k K"
            "--guidance G"
            "--lookahead W"
            "--json"
        ]
        "plan",
        [
            "--gpus N"
            "--gpu-memory GB"
            "--link GB/s"
            "--node-gpus N"
            "--node-link GB/s"
            "--latency US"
            "--peak TFLOP/s"
            "--share X"
            "--measured F"
            "--config F"
            "--model-config F"
            "--size small|tiny|160m|1b|7b"
            "--sequence N"
            "--tokens-per-step N"
            "--tokens N"
            "--precision bf16|fp32"
            "--gradients fp32|bf16"
            "--checkpoint-link GB/s"
            "--json"
        ]
        "inspect", [ "PATH"; "--json" ]
        "report", [ "RUN..."; "--out F"; "--watch"; "--port N"; "--smoothing B"; "--tensorboard DIR"; "--json" ]
        "soak", [ "--out DIR"; "--minutes N"; "--faults N"; "--ranks N"; "--seed S"; "--config F"; "--keep"; "--json" ]
        "doctor", [ "--json" ]
        "completion", [ "bash|zsh|fish"; "--json" ]
    ]
