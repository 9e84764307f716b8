/// The command line's schema: one Argu union for each command.
namespace Hybrid.Arguments

open System
open Argu

/// What stands after an option, for the help and for the checks before Argu sees it.
[<AttributeUsage(AttributeTargets.Method ||| AttributeTargets.Property)>]
type ValueAttribute
    /// What the help shows after the option.
    (placeholder: string) =
    inherit Attribute()
    /// As the help shows it: PATH, N, auto|must|PATH.
    member _.Placeholder = placeholder
    /// One or more values may follow, and the option may be given again.
    member val Several = false with get, set
    /// Only the words of the placeholder, split at |, are taken.
    member val Closed = false with get, set
    /// Token ids in one argument, separated by spaces or commas.
    member val Ids = false with get, set
    /// Bytes with or without a unit: 5GB, 500MB, 1GiB.
    member val Bytes = false with get, set
    /// The least value that is taken.
    member val Minimum = Double.NegativeInfinity with get, set
    /// The largest value that is taken.
    member val Maximum = Double.PositiveInfinity with get, set
    /// The value must be greater than this.
    member val Above = Double.NegativeInfinity with get, set

module internal Words =
    let json = "one JSON object on stdout instead of text"
    let tensorBoard = "also write event files for TensorBoard beside metrics.jsonl"
    let model = "a run, a checkpoint, a Hugging Face directory, or an open_lm .pt"
    let modelConfig = "the model JSON that belongs to an open_lm .pt"

    let textRows = "rows of text in the table of an open_lm .pt that holds image rows already"

    let imageCodes = "image codes in that table"

    let imageTokenizer = "an image tokenizer: a VQ-VAE, VQ-GAN or MoVQGAN checkpoint, or diffusers' folder of one"
    let averages = "take the moving averages (EMA) that the image tokenizer's trainer kept"

type internal StudyArguments =
    | [<Unique; Value("smoke|tiny|paper", Closed = true)>] Preset of string
    | [<Unique; Value("F")>] Config of string
    | [<Unique; Value("DIR")>] Out of string
    | [<Unique; Value("auto", Closed = true)>] Resume of string
    | [<Unique>] Dry_Run
    | [<Unique; Value("N")>] Seed of int64
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1024.0)>] Parallel of int
    | [<Unique; CustomCommandLine "--tensorboard">] TensorBoard
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Preset _ -> "smoke: a minute; tiny (default): ten minutes on a laptop; paper: the paper's own sizes"
            | Config _ -> "a plan, strict JSON, that changes the preset (default: the preset as it is)"
            | Out _ -> "directory of the run (default: a new one under runs/)"
            | Resume _ -> "go on where a run in that directory stopped, or begin it (default: refuse one that is there)"
            | Dry_Run -> "only work out parameters, FLOPs, memory and time"
            | Seed _ -> "seed of everything random (default: the plan's, else 0)"
            | Parallel _ -> "arms that run side by side (default: one for each GPU or CPU thread)"
            | TensorBoard -> Words.tensorBoard
            | Json -> Words.json

type internal PrepareArguments =
    | [<Mandatory; Value("PATH", Several = true)>] Input of string
    | [<Unique; Value("DIR")>] Image_Root of string
    | [<Mandatory; Unique; Value("F")>] Text_Tokenizer of string
    | [<Unique; Value("PATH")>] Image_Tokenizer of string
    | [<Unique>] Ema
    | [<Unique; Value("fp32|bf16", Closed = true)>] Precision of string
    | [<Unique; Value("N", Minimum = 1.0)>] Image_Size of int
    | [<Unique; Value("G", Minimum = 1.0)>] Reducing_Gap of float
    | [<Unique; Value("first|all", Closed = true)>] Captions of string
    | [<Unique; Value("N", Minimum = 1.0)>] Max_Text_Tokens of int
    | [<Unique; Value("truncate|drop", Closed = true)>] Long_Text of string
    | [<Unique; Value("N", Minimum = 1.0)>] Pairs_Per_Shard of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1024.0)>] Workers of int
    | [<Unique>] Strict
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Input _ -> "tars, folders, tables, COCO annotations of picture-caption pairs; *, ** and {a,b} stand for several"
            | Image_Root _ -> "where the pictures are that tables and annotations name (default: beside them)"
            | Text_Tokenizer _ -> "a tokenizer.json"
            | Image_Tokenizer _ -> Words.imageTokenizer + " (not for tars of tokens)"
            | Ema -> Words.averages
            | Precision _ ->
                "of the image tokenizer: bf16 is faster where the processor has it; a few codes differ (default: fp32)"
            | Image_Size _ -> "with --image-tokenizer: pictures are cropped and resized to N x N pixels"
            | Reducing_Gap _ -> "shrink by whole factors first, as Pillow's reducing_gap does (default: no)"
            | Captions _ -> "first: one caption a picture (default); all: a pair for each"
            | Max_Text_Tokens _ -> "the longest caption (default: what fits in 1152 positions beside the codes)"
            | Long_Text _ -> "truncate: longer captions lose their end (default); drop: they are left out"
            | Pairs_Per_Shard _ -> "the most pairs of a shard, and of what a stop can lose (default: 2048)"
            | Workers _ -> "threads that decode (default: one for each core)"
            | Strict -> "end at the first thing that would be dropped"
            | Out _ -> "directory of the shards; what is there already is kept"
            | Json -> Words.json

type internal TrainArguments =
    | [<Mandatory; Unique; Value("F")>] Config of string
    | [<Value("KEY VALUE")>] Set of key: string * value: string
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique; Value("auto|must|PATH")>] Resume of string
    | [<Unique; CustomCommandLine "--tensorboard">] TensorBoard
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Config _ -> "the run's configuration, strict JSON"
            | Set _ -> "put VALUE in the place of the configuration's key a.b.c; may be given again"
            | Out _ -> "directory of the run"
            | Resume _ ->
                "auto: go on or begin; must: go on or fail; PATH: from that checkpoint (default: refuse a run that is there)"
            | TensorBoard -> Words.tensorBoard
            | Json -> Words.json

type internal EvaluateArguments =
    | [<Mandatory; Unique; Value("PATH")>] Model of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Mandatory; Unique; Value("PATH")>] Tokens of string
    | [<Unique>] Details
    | [<Unique; Value("PATH")>] Against of string
    | [<Unique; Value("F")>] Against_Config of string
    | [<Unique; Value("H W", Minimum = 1.0, Maximum = 16384.0)>] Grid of height: int * width: int
    | [<Unique; Value("N", Minimum = 1.0)>] Sequences of int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> Words.model
            | Model_Config _ -> Words.modelConfig
            | Text_Rows _ -> Words.textRows
            | Image_Codes _ -> Words.imageCodes
            | Tokens _ -> "token shards, or ready sequences as .npy"
            | Details -> "also losses by place and caption length, the use of codes, gradients and attention"
            | Against _ -> "with --details: the model it started from, or another, to compare with"
            | Against_Config _ -> "the model JSON that belongs to the other, where it is an open_lm .pt"
            | Grid _ -> "with --details: rows and columns of a picture's codes (default: what shards say)"
            | Sequences _ -> "with --details: sequences that gradients and attention are taken over (default: 32)"
            | Json -> Words.json

type internal GenerateArguments =
    | [<Mandatory; Unique; Value("DIR")>] Model of string
    | [<Value("TEXT", Several = true)>] Prompt of string
    | [<Unique; Value("F")>] Prompts_File of string
    | [<Unique; Value("N", Minimum = 1.0)>] Count of int
    | [<Unique; Value("T", Minimum = 0.0)>] Temperature of float
    | [<Unique; Value("K", Minimum = 1.0)>] Top_K of int
    | [<Unique; Value("P", Above = 0.0, Maximum = 1.0)>] Top_P of float
    | [<Value("C", Minimum = 0.0, Several = true)>] Cfg of float
    | [<Unique; Value("S")>] Seed of int64
    | [<Unique; Value("W", Minimum = 1.0, Maximum = 1024.0)>] Lookahead of int
    | [<Unique; Value("fp32|bf16", Closed = true)>] Precision of string
    | [<Unique; Value("MB", Minimum = 1.0)>] Memory_Budget of int
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> "a run or a checkpoint of a model with image codes"
            | Prompt _ -> "captions, each in quotes"
            | Prompts_File _ -> "a text file with a caption on each line"
            | Count _ -> "pictures for each caption (default: 1)"
            | Temperature _ -> "0 takes the most probable code (default: 1)"
            | Top_K _ -> "sample from the K most probable codes only (default: all)"
            | Top_P _ -> "sample from the fewest codes that hold probability P (default: 1, all)"
            | Cfg _ -> "strength of classifier-free guidance; several: the same pictures at each (default: 1, none)"
            | Seed _ -> "seed of the sampling (default: 0)"
            | Lookahead _ -> "codes that a pass reads ahead; the pictures stay the same (default: 1, none)"
            | Precision _ -> "bf16 is faster where the processor has it; a few codes differ (default: fp32)"
            | Memory_Budget _ -> "megabytes for cached keys and values; more pictures are drawn in turn (default: 4000)"
            | Out _ -> "directory of the pictures"
            | Json -> Words.json

type internal CompleteArguments =
    | [<Mandatory; Unique; Value("PATH")>] Model of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Unique; Value("TEXT")>] Prompt of string
    | [<Unique; Value("\"1 2 3\"", Ids = true)>] Prompt_Ids of string
    | [<Unique>] Greedy
    | [<Unique; Value("N", Minimum = 1.0)>] Max_Tokens of int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> Words.model
            | Model_Config _ -> Words.modelConfig
            | Text_Rows _ -> Words.textRows
            | Image_Codes _ -> Words.imageCodes
            | Prompt _ -> "the text to go on from"
            | Prompt_Ids _ -> "the same as token ids"
            | Greedy -> "take the most probable token every time instead of sampling"
            | Max_Tokens _ -> "stop after N new tokens (default: 100)"
            | Json -> Words.json

type internal TokenizeArguments =
    | [<Mandatory; Unique; Value("F")>] Tokenizer of string
    | [<Unique; Value("S")>] Text of string
    | [<Unique; Value("F")>] File of string
    | [<Unique; Value("\"1 2 3\"", Ids = true)>] Decode of string
    | [<Unique>] Special
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Tokenizer _ -> "a tokenizer.json, or a folder with one or with vocab.json and merges.txt"
            | Text _ -> "the text to turn into ids; one that begins with - is written --text=S"
            | File _ -> "a UTF-8 file to turn into ids, to its last character"
            | Decode _ -> "ids to turn into text"
            | Special -> "add the tokens that the tokenizer puts around a text; with --decode, keep special tokens"
            | Json -> Words.json

type internal ImageArguments =
    | [<Mandatory; Unique; MainCommand; Value("encode|decode|reconstruct|train", Closed = true)>] Action of string
    | [<Mandatory; Value("PATH", Several = true)>] Input of string
    | [<Unique; Value("PATH")>] Tokenizer of string
    | [<Unique; Value("F")>] Tokenizer_Config of string
    | [<Unique>] Ema
    | [<Unique; Value("fp32|bf16", Closed = true)>] Precision of string
    | [<Unique; Value("N", Minimum = 1.0)>] Batch of int
    | [<Unique; Value("MB", Minimum = 1.0)>] Memory_Budget of int
    | [<Unique>] Strict
    | [<Unique; Value("vqvae|movq", Closed = true)>] Kind of string
    | [<Unique; Value("N", Minimum = 1.0)>] Image_Size of int
    | [<Unique; Value("K", Minimum = 2.0)>] Codes of int
    | [<Unique; Value("N", Minimum = 1.0)>] Steps of int
    | [<Unique; Value("F")>] Config of string
    | [<Value("KEY VALUE")>] Set of key: string * value: string
    | [<Unique; Value("auto", Closed = true)>] Resume of string
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique; CustomCommandLine "--tensorboard">] TensorBoard
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Action _ ->
                "pictures to codes, codes to pictures, both ways with what was lost, or a tokenizer of one's own from pictures"
            | Tokenizer _ -> Words.imageTokenizer
            | Tokenizer_Config _ -> "the JSON configuration that belongs to a VQ-GAN: MoVQGAN's, diffusers' or LlamaGen's"
            | Ema -> Words.averages
            | Precision _ -> "bf16 is faster where the processor has it; a few codes differ (default: fp32)"
            | Batch _ -> "pictures that go through together (default: 16)"
            | Memory_Budget _ -> "megabytes for the maps of pictures; larger pictures go through in tiles (default: 4000)"
            | Strict -> "stop at a picture that cannot be read instead of leaving it out"
            | Input _ -> "pictures or folders of them, for decode files of codes, for train also tars and tables"
            | Kind _ -> "train: the kind of tokenizer, the configuration's kind (default: vqvae)"
            | Image_Size _ -> "train: squares of N x N pixels, the configuration's imageSize (no default)"
            | Codes _ -> "train: how many codes, the configuration's model.codes (default: 512)"
            | Steps _ -> "train: steps of the run, the configuration's schedule.steps (default: 2000)"
            | Config _ -> "train: the run's configuration, strict JSON"
            | Set _ -> "train: put VALUE in the place of the configuration's key a.b.c; may be given again"
            | Resume _ -> "train: go on where a run in that directory stopped, or begin it (default: refuse one that is there)"
            | Out _ -> "directory of the results, for train of the run"
            | TensorBoard -> Words.tensorBoard
            | Json -> Words.json

type internal ConvertArguments =
    | [<Mandatory; Unique; Value("PATH")>] From of string
    | [<Unique; Value("F")>] From_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Mandatory; Unique; Value("DIR")>] To of string
    | [<Mandatory; Unique; Value("hf|open_lm|hybrid", Closed = true)>] Format of string
    | [<Unique; Value("keep|fp32|bf16|fp16", Closed = true)>] Dtype of string
    | [<Unique; Value("SIZE", Bytes = true)>] Shard_Size of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | From _ -> Words.model
            | From_Config _ -> Words.modelConfig
            | Text_Rows _ -> Words.textRows
            | Image_Codes _ -> Words.imageCodes
            | To _ -> "a new directory"
            | Format _ ->
                "hf: a directory for Hugging Face's transformers; open_lm: epoch_1.pt and model.json; hybrid: a checkpoint to go on from"
            | Dtype _ ->
                "element type of the weights (default: keep, as each stands in the source); hybrid's checkpoints are fp32"
            | Shard_Size _ -> "hf: begin another file above this size (default: 5GB)"
            | Json -> Words.json

type internal InspectArguments =
    | [<Mandatory; Unique; MainCommand; Value("PATH")>] Path of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Path _ -> "a model, a run, a shard, a tar, or a configuration"
            | Json -> Words.json

type internal ReportArguments =
    | [<Mandatory; MainCommand; Value("RUN", Several = true)>] Run of string
    | [<Mandatory; Unique; Value("F")>] Out of string
    | [<Unique>] Watch
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 65535.0)>] Port of int
    | [<Unique; Value("B", Minimum = 0.0, Maximum = 0.99)>] Smoothing of float
    | [<Unique; CustomCommandLine "--tensorboard"; Value("DIR")>] TensorBoard of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Run _ -> "directories of runs: of train, image train, align and study"
            | Out _ -> "the page (.html), or a directory for it; Markdown, CSV and figures go beside it"
            | Watch -> "serve the page on this machine while the runs go on, also runs that have not begun"
            | Port _ -> "watch: the port of 127.0.0.1 (default: any that is free)"
            | Smoothing _ -> "weight of the moving average that curves begin with (default: 0.95)"
            | TensorBoard _ -> "also write event files for TensorBoard, into a folder of DIR for each run"
            | Json -> Words.json

type internal DoctorArguments =
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Json -> Words.json

type internal CompletionArguments =
    | [<Mandatory; Unique; MainCommand; Value("bash|zsh|fish", Closed = true)>] Shell of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Shell _ -> "the shell"
            | Json -> Words.json
