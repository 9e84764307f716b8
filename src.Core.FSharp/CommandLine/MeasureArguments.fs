/// The schema of the commands that measure and predict: probe, align, fid, bench, plan and soak.
namespace Hybrid.Arguments

open System
open Argu

type internal ProbeArguments =
    | [<Mandatory; Unique; Value("PATH")>] Model of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Value("PATH", Several = true)>] Against of string
    | [<Value("F", Several = true)>] Tasks of string
    | [<Value("F", Several = true)>] Text of string
    | [<Value("TEXT", Several = true)>] Complete of string
    | [<Unique; Value("N", Minimum = 1.0)>] Max_Tokens of int
    | [<Unique; Value("K", Minimum = 0.0, Maximum = 1000.0)>] Shots of int
    | [<Unique; Value("N", Minimum = 1.0)>] Limit of int
    | [<Unique; Value("S")>] Seed of int64
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> Words.model
            | Model_Config _ -> Words.modelConfig
            | Text_Rows _ -> Words.textRows
            | Image_Codes _ -> Words.imageCodes
            | Against _ -> "models to compare with, in order; the first is the one before training"
            | Tasks _ -> "task files: JSON lines, lists of pairs, facts, paragraphs"
            | Text _ -> "plain text whose loss is measured, a token and a byte"
            | Complete _ -> "beginnings of texts, each in quotes, that the models go on from greedily"
            | Max_Tokens _ -> "the most tokens of a completion (default: 40)"
            | Shots _ -> "examples before each question (default: 5 in lists of pairs, else none)"
            | Limit _ -> "only the first N questions of each task, and windows of each text (default: all)"
            | Seed _ -> "draw the examples by this seed (default: the questions that follow)"
            | Json -> Words.json

type internal AlignArguments =
    | [<Unique; Value("PATH")>] Model of string
    | [<Unique; Value("PATH")>] Tokens of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Unique; Value("F")>] Codes of string
    | [<Unique; Value("F")>] Text_Ids of string
    | [<Unique; Value("F")>] Text_Embedding of string
    | [<Unique; Value("F")>] Initial of string
    | [<Unique; Value("F")>] Tokenizer of string
    | [<Unique; Value("N", Minimum = 2.0)>] Batch of int
    | [<Unique; Value("N", Minimum = 1.0)>] Steps of int
    | [<Unique; Value("R", Above = 0.0, Maximum = 1e6)>] Learning_Rate of float
    | [<Unique; Value("A B", Minimum = 0.0, Maximum = 0.999999999)>] Betas of first: float * second: float
    | [<Unique; Value("E", Minimum = 0.0, Maximum = 1.0)>] Epsilon of float
    | [<Unique; Value("sequential|shuffled", Closed = true)>] Order of string
    | [<Unique; Value("S")>] Seed of int64
    | [<Unique; Value("N", Minimum = 0.0)>] Held_Out of int
    | [<Value("shuffled-captions|random-text", Closed = true, Several = true)>] Control of string
    | [<Unique; Value("N", Minimum = 1.0)>] Nearest of int
    | [<Unique; Value("\"1 2 3\"", Ids = true)>] Nearest_Of of string
    | [<Value("TEXT", Several = true)>] Codes_Of_Word of string
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique; CustomCommandLine "--tensorboard">] TensorBoard
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> Words.model
            | Tokens _ -> "with --model: token shards, or ready sequences as .npy"
            | Model_Config _ -> Words.modelConfig
            | Text_Rows _ -> "rows of text, where an open_lm .pt holds image rows already (default: it holds none)"
            | Image_Codes _ -> "how many image codes there are (default: what the model or its data say)"
            | Codes _ -> "without a model: codes of the pictures, whole numbers [pairs, codes] as .npy"
            | Text_Ids _ -> "the captions' token ids, a JSON list of lists"
            | Text_Embedding _ -> "the text table, .npy [rows, width]"
            | Initial _ -> "the image table to begin with, .npy [codes, width] (default: the model's own rows, or random)"
            | Tokenizer _ -> "a tokenizer.json for showing text (default: the one beside the model)"
            | Batch _ -> "pairs of a step (default: 1024, or all pairs where there are fewer)"
            | Steps _ -> "steps of Adam (default: 1000)"
            | Learning_Rate _ -> "its learning rate (default: 0.01)"
            | Betas _ -> "decays of its moments (default: 0.9 0.98)"
            | Epsilon _ -> "added to the root of its second moment (default: 1e-6)"
            | Order _ -> "shuffled (default), or sequential: as they stand, wrapping at the end"
            | Seed _ -> "seed of everything random (default: 0)"
            | Held_Out _ -> "pairs kept out of training, to search among at the end (default: 0)"
            | Control _ -> "train beside it on captions of other pictures, or against random text embeddings (default: neither)"
            | Nearest _ -> "text tokens shown for a code (default: 5)"
            | Nearest_Of _ -> "codes that they are shown for (default: the ten used most)"
            | Codes_Of_Word _ -> "words whose codes are looked for, with their nearest text tokens"
            | Out _ -> "a new directory: the aligned table, its curves and align.json"
            | TensorBoard -> Words.tensorBoard
            | Json -> Words.json

type internal FidArguments =
    | [<Mandatory; Unique; Value("PATH")>] Real of string
    | [<Mandatory; Unique; Value("PATH")>] Generated of string
    | [<Unique; Value("F")>] Extractor of string
    | [<Unique; Value("none|center", Closed = true)>] Crop of string
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 8192.0)>] Pre_Size of int
    | [<Unique; Value("lanczos|bicubic|bilinear", Closed = true)>] Pre_Filter of string
    | [<Unique; Value("clean|lanczos|bilinear|none", Closed = true)>] Resize of string
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 8192.0)>] Input_Size of int
    | [<Unique; Value("inception|symmetric|unit|bytes", Closed = true)>] Scale of string
    | [<Unique; Value("auto|forward|layers|features", Closed = true)>] Entry of string
    | [<Value("fid|kid|neighbours", Several = true, Closed = true)>] Measures of string
    | [<Unique; Value("N", Minimum = 1.0)>] Subsets of int
    | [<Unique; Value("N", Minimum = 2.0)>] Subset_Size of int
    | [<Unique; Value("K", Minimum = 1.0)>] Neighbours of int
    | [<Unique>] Extrapolate
    | [<Unique; Value("S")>] Seed of int64
    | [<Unique; Value("N", Minimum = 2.0)>] Limit of int
    | [<Unique; Value("N", Minimum = 1.0)>] Batch of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1024.0)>] Workers of int
    | [<Unique; Value("DIR")>] Save_Features of string
    | [<Unique>] Strict
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Real _ -> "pictures (folder, tar, a directory of generate) or features (.npy [N, d])"
            | Generated _ -> "the same of the pictures to be judged"
            | Extractor _ ->
                "a TorchScript file that makes features of pictures. It is a program and is run: give one that you trust"
            | Crop _ -> "center: the central square first (default: none)"
            | Pre_Size _ -> "then N x N pixels of whole numbers, as if pictures were stored so (default: as they are)"
            | Pre_Filter _ -> "the filter of --pre-size, as Pillow's (default: lanczos)"
            | Resize _ ->
                "to the extractor's size. clean (default), lanczos: Pillow's filters, antialiased, fractions kept; bilinear: torch's, not antialiased; none: pictures as they are"
            | Input_Size _ -> "the extractor takes N x N pixels (default: 299)"
            | Scale _ ->
                "what it takes of a value x from 0 to 255: inception (x-128)/128 (default), symmetric 2x/255-1, unit x/255, bytes x"
            | Entry _ ->
                "what is called: the module; its layers; the module with return_features. auto (default): the last two for Inception in NVIDIA's form, else the module"
            | Measures _ -> "only these (default: all)"
            | Subsets _ -> "subsets for KID's spread (default: 100)"
            | Subset_Size _ -> "samples of each, at most (default: 1000)"
            | Neighbours _ -> "balls of precision and recall reach to the K-th neighbour (default: 3)"
            | Extrapolate -> "also FID at 40 to 100 % of the samples, and where the line ends"
            | Seed _ -> "seed of subsets (default: 0)"
            | Limit _ -> "the first N of each set only (default: all)"
            | Batch _ -> "pictures that go through the extractor together (default: 32)"
            | Workers _ -> "threads that decode (default: one for each core)"
            | Save_Features _ -> "keep the features, to be given instead of the pictures next time"
            | Strict -> "end at a picture that cannot be read instead of leaving it out"
            | Json -> Words.json

type internal BenchArguments =
    | [<Mandatory; Unique; MainCommand; Value("prepare|train|generate|load|collective", Closed = true)>] Action of string
    | [<Unique; Value("F")>] Text_Tokenizer of string
    | [<Value("F", Several = true)>] Text of string
    | [<Unique; Value("PATH")>] Image_Tokenizer of string
    | [<Value("PATH", Several = true)>] Pictures of string
    | [<Unique; Value("N", Minimum = 1.0)>] Image_Size of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1024.0)>] Threads of int
    | [<Unique; Value("S", Above = 0.0, Maximum = 3600.0)>] Seconds of float
    | [<Unique; Value("small|tiny|160m|1b", Closed = true)>] Size of string
    | [<Unique; Value("PATH")>] Model of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1048576.0)>] Batch of int
    | [<Unique; Value("N", Minimum = 1.0)>] Micro_Batch of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1048576.0)>] Positions of int
    | [<Unique; Value("bf16|fp32", Closed = true)>] Precision of string
    | [<Unique; Value("N", Minimum = 1.0)>] Steps of int
    | [<Unique; Value("none|selective|full", Closed = true)>] Checkpointing of string
    | [<Unique>] Profile
    | [<Unique; Value("0|1|2|3", Closed = true)>] Zero of string
    | [<Value("SIZE", Bytes = true, Several = true)>] Bytes of string
    | [<Unique; Value("PATH")>] Tokens of string
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1048576.0)>] New of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1048576.0)>] Prompt_Length of int
    | [<Unique; Value("K", Minimum = 1.0)>] Top_K of int
    | [<Unique; Value("G", Minimum = 0.0)>] Guidance of float
    | [<Unique; Value("W", Minimum = 1.0, Maximum = 1024.0)>] Lookahead of int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Action _ ->
                "prepare: tokenizing, decoding and resizing, encoding; train: steps of training; generate: drawing tokens; load: batches for training; collective: what the processes of a launcher exchange"
            | Text_Tokenizer _ -> "prepare: a tokenizer.json"
            | Text _ -> "prepare: UTF-8 files to tokenize"
            | Image_Tokenizer _ -> "prepare: a VQ-VAE or MoVQ checkpoint; without one pictures are only decoded and resized"
            | Pictures _ -> "prepare: pictures, folders of them, or tars"
            | Image_Size _ -> "prepare: pictures are cropped and resized to N x N pixels (default: 256)"
            | Threads _ -> "threads of the measurements with several (default: all cores; load: as many as training takes)"
            | Seconds _ -> "prepare, load, collective: seconds that each measurement goes on (default: 5; collective: 1)"
            | Size _ -> "train, generate: a shape to compare by (default: small)"
            | Model _ -> "train, generate: a model on disk instead"
            | Model_Config _ -> Words.modelConfig
            | Batch _ -> "train, load: sequences of a step; generate: sequences drawn together (default: the size's, else 8)"
            | Micro_Batch _ -> "train: sequences worked on together (default: the batch)"
            | Positions _ -> "train, load: positions of a sequence (default: the size's or the model's; load: 1152)"
            | Precision _ -> "train, generate: what the model computes in; collective: what is sent (default: bf16)"
            | Steps _ -> "train: steps that are timed, after some that are not (default: 8)"
            | Checkpointing _ -> "train: what is computed again in the backward pass (default: none)"
            | Profile -> "train: where the time of a step goes"
            | Zero _ -> "train: what each process of a launcher keeps a slice of (default: 0, nothing)"
            | Bytes _ -> "collective: lengths of messages (default: 4KiB 64KiB 1MiB 16MiB 64MiB)"
            | Tokens _ -> "load: shards or ready sequences (default: shards made for the purpose)"
            | New _ -> "generate: new tokens of each (default: what the positions hold, at most 256)"
            | Prompt_Length _ -> "generate: tokens before them (default: 16)"
            | Top_K _ -> "generate: draws from the K most probable tokens (default: 100)"
            | Guidance _ -> "generate: strength of classifier-free guidance (default: 1, none)"
            | Lookahead _ -> "generate: tokens that a pass reads ahead (default: 1, none)"
            | Json -> Words.json

type internal PlanArguments =
    | [<Mandatory; Unique; Value("N", Minimum = 1.0, Maximum = 1048576.0)>] Gpus of int
    | [<Mandatory; Unique; Value("GB", Above = 0.0, Maximum = 1e6)>] Gpu_Memory of float
    | [<Mandatory; Unique; Value("GB/s", Above = 0.0, Maximum = 1e6)>] Link of float
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1024.0)>] Node_Gpus of int
    | [<Unique; Value("GB/s", Above = 0.0, Maximum = 1e6)>] Node_Link of float
    | [<Unique; Value("US", Minimum = 0.0, Maximum = 1e6)>] Latency of float
    | [<Unique; Value("TFLOP/s", Above = 0.0, Maximum = 1e6)>] Peak of float
    | [<Unique; Value("X", Above = 0.0, Maximum = 1.0)>] Share of float
    | [<Unique; Value("F")>] Measured of string
    | [<Unique; Value("F")>] Config of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("small|tiny|160m|1b|7b", Closed = true)>] Size of string
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1048576.0)>] Sequence of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1e12)>] Tokens_Per_Step of float
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1e18)>] Tokens of float
    | [<Unique; Value("bf16|fp32", Closed = true)>] Precision of string
    | [<Unique; Value("fp32|bf16", Closed = true)>] Gradients of string
    | [<Unique; Value("GB/s", Above = 0.0, Maximum = 1e6)>] Checkpoint_Link of float
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Gpus _ -> "how many GPUs, one process for each"
            | Gpu_Memory _ -> "memory of each, in gigabytes of 10⁹ bytes"
            | Link _ -> "what a node sends to another at a time, all its network cards together"
            | Node_Gpus _ -> "GPUs of a node (default: 8)"
            | Node_Link _ -> "what a GPU sends to another one of its node at a time (default: as --link)"
            | Latency _ -> "microseconds of a message from one GPU to the next, beside its bytes (default: 10)"
            | Peak _ -> "a GPU's peak in matrix products (default: an A100's by its data sheet, 312 in bf16, 19.5 in fp32)"
            | Share _ -> "the share of the peak that a step without waiting reaches (default: 0.45)"
            | Measured _ -> "what hybrid bench train --json wrote on such a GPU, in the place of --peak and --share"
            | Config _ -> "a training configuration: its model, sequences, steps, precision and what moves"
            | Model_Config _ -> "a model's description: open_lm's JSON or a config.json"
            | Size _ -> "a shape to compare by (default: 1b, the paper's)"
            | Sequence _ -> "positions of a sequence (default: the configuration's, else 1152)"
            | Tokens_Per_Step _ -> "tokens of a step over all GPUs (default: the configuration's, else 1e6)"
            | Tokens _ -> "tokens of the run (default: the configuration's, else 100e9)"
            | Precision _ -> "what the model computes in (default: the configuration's, else bf16)"
            | Gradients _ -> "what gradients add up in, over micro-batches and GPUs (default: the configuration's, else fp32)"
            | Checkpoint_Link _ ->
                "at what speed all processes together write: says how long a checkpoint takes (default: not said)"
            | Json -> Words.json

type internal SoakArguments =
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique; Value("N", Above = 0.0, Maximum = 100000.0)>] Minutes of float
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1000000.0)>] Faults of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 64.0)>] Ranks of int
    | [<Unique; Value("S")>] Seed of int64
    | [<Unique; Value("F")>] Config of string
    | [<Unique>] Keep
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Out _ -> "a new directory for the runs; those that came out wrong stay there"
            | Minutes _ -> "inject faults for N minutes"
            | Faults _ -> "inject N faults"
            | Ranks _ -> "processes of each run (default: 1); more are started by mpirun, which must be there"
            | Seed _ -> "seed of what is injected when (default: 0)"
            | Config _ -> "a training configuration (default: a small model on random tokens, a run of some seconds)"
            | Keep -> "keep the runs that came out right too"
            | Json -> Words.json
