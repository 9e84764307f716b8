/// The command line's schema: one Argu union for each command.
namespace Hybrid.Arguments

open System
open Argu

/// What stands after an option, for the help and for the checks before Argu sees it.
[<AttributeUsage(AttributeTargets.Method ||| AttributeTargets.Property)>]
type ValueAttribute(placeholder: string) =
    inherit Attribute()
    /// As the help shows it: PATH, N, auto|must|PATH.
    member _.Placeholder = placeholder
    /// One or more values may follow, and the option may be given again.
    member val Several = false with get, set
    /// Only the words of the placeholder, split at |, are taken.
    member val Closed = false with get, set
    /// Token ids in one argument, separated by spaces or commas.
    member val Ids = false with get, set
    member val Minimum = Double.NegativeInfinity with get, set
    member val Maximum = Double.PositiveInfinity with get, set
    /// The value must be greater than this.
    member val Above = Double.NegativeInfinity with get, set

module internal Words =
    let json = "one JSON object on stdout instead of text"
    let model = "a run, a checkpoint, a Hugging Face directory, or an open_lm .pt"
    let modelConfig = "the model JSON that belongs to an open_lm .pt"

    let textRows = "rows of text in the table of an open_lm .pt that holds image rows already"

    let imageCodes = "image codes in that table"

type internal StudyArguments =
    | [<Unique; Value("smoke|tiny|paper", Closed = true)>] Preset of string
    | [<Unique; Value("F")>] Config of string
    | [<Unique; Value("DIR")>] Out of string
    | [<Unique; Value("auto", Closed = true)>] Resume of string
    | [<Unique>] Dry_Run
    | [<Unique; Value("N")>] Seed of int64
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Preset _ -> "smoke: a minute; tiny (default): ten minutes on a laptop; paper: the paper's own sizes"
            | Config _ -> "a configuration that changes the preset"
            | Out _ -> "directory of the run (default: a new one under runs/)"
            | Resume _ -> "go on where a run in that directory stopped, or begin it"
            | Dry_Run -> "only work out parameters, FLOPs, memory and time"
            | Seed _ -> "seed of everything random"
            | Json -> Words.json

type internal PrepareArguments =
    | [<Mandatory; Value("PATH", Several = true)>] Input of string
    | [<Mandatory; Unique; Value("F")>] Text_Tokenizer of string
    | [<Mandatory; Unique; Value("PATH")>] Image_Tokenizer of string
    | [<Mandatory; Unique; Value("N", Minimum = 1.0)>] Image_Size of int
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Input _ -> "webdataset tars, folders or tables of picture-caption pairs"
            | Text_Tokenizer _ -> "a tokenizer.json"
            | Image_Tokenizer _ -> "a VQ-VAE or MoVQ checkpoint"
            | Image_Size _ -> "pictures are cropped and resized to N x N pixels"
            | Out _ -> "directory of the shards; what is there already is kept"
            | Json -> Words.json

type internal TrainArguments =
    | [<Mandatory; Unique; Value("F")>] Config of string
    | [<Value("KEY VALUE")>] Set of key: string * value: string
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique; Value("auto|must|PATH")>] Resume of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Config _ -> "the run's configuration, strict JSON"
            | Set _ -> "put VALUE in the place of the configuration's a.b.c; may be given again"
            | Out _ -> "directory of the run"
            | Resume _ -> "auto: go on or begin; must: go on or fail; PATH: from that checkpoint"
            | Json -> Words.json

type internal EvaluateArguments =
    | [<Mandatory; Unique; Value("PATH")>] Model of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Mandatory; Unique; Value("PATH")>] Tokens of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> Words.model
            | Model_Config _ -> Words.modelConfig
            | Text_Rows _ -> Words.textRows
            | Image_Codes _ -> Words.imageCodes
            | Tokens _ -> "token shards, or ready sequences as .npy"
            | Json -> Words.json

type internal GenerateArguments =
    | [<Mandatory; Unique; Value("DIR")>] Model of string
    | [<Mandatory; Value("TEXT", Several = true)>] Prompt of string
    | [<Unique; Value("N", Minimum = 1.0)>] Count of int
    | [<Unique; Value("T", Minimum = 0.0)>] Temperature of float
    | [<Unique; Value("K", Minimum = 1.0)>] Top_K of int
    | [<Unique; Value("P", Above = 0.0, Maximum = 1.0)>] Top_P of float
    | [<Unique; Value("C", Minimum = 0.0)>] Cfg of float
    | [<Unique; Value("S")>] Seed of int64
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> "a run or a checkpoint of a model with image codes"
            | Prompt _ -> "captions, each in quotes"
            | Count _ -> "pictures for each caption (default: 1)"
            | Temperature _ -> "0 takes the most probable code (default: 1)"
            | Top_K _ -> "sample from the K most probable codes only"
            | Top_P _ -> "sample from the fewest codes that hold probability P"
            | Cfg _ -> "strength of classifier-free guidance (default: 1, none)"
            | Seed _ -> "seed of the sampling (default: 0)"
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

type internal ProbeArguments =
    | [<Mandatory; Unique; Value("PATH")>] Model of string
    | [<Unique; Value("F")>] Model_Config of string
    | [<Unique; Value("N", Minimum = 1.0)>] Text_Rows of int
    | [<Unique; Value("K", Minimum = 1.0)>] Image_Codes of int
    | [<Unique; Value("PATH")>] Against of string
    | [<Mandatory; Value("F", Several = true)>] Tasks of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Model _ -> Words.model
            | Model_Config _ -> Words.modelConfig
            | Text_Rows _ -> Words.textRows
            | Image_Codes _ -> Words.imageCodes
            | Against _ -> "a second model to compare with: the one before training"
            | Tasks _ -> "task files, JSON lines"
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
    | [<Mandatory; Unique; MainCommand; Value("encode|decode|reconstruct", Closed = true)>] Action of string
    | [<Mandatory; Unique; Value("PATH")>] Tokenizer of string
    | [<Unique; Value("F")>] Tokenizer_Config of string
    | [<Mandatory; Value("PATH", Several = true)>] Input of string
    | [<Mandatory; Unique; Value("DIR")>] Out of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Action _ -> "pictures to codes, codes to pictures, or both ways with the PSNR"
            | Tokenizer _ -> "a VQ-VAE or MoVQ checkpoint"
            | Tokenizer_Config _ -> "the JSON that belongs to a MoVQ checkpoint"
            | Input _ -> "pictures, or files of codes to decode"
            | Out _ -> "directory of the results"
            | Json -> Words.json

type internal BenchArguments =
    | [<Mandatory; Unique; MainCommand; Value("prepare", Closed = true)>] Action of string
    | [<Unique; Value("F")>] Text_Tokenizer of string
    | [<Value("F", Several = true)>] Text of string
    | [<Unique; Value("PATH")>] Image_Tokenizer of string
    | [<Value("PATH", Several = true)>] Pictures of string
    | [<Unique; Value("N", Minimum = 1.0)>] Image_Size of int
    | [<Unique; Value("N", Minimum = 1.0, Maximum = 1024.0)>] Threads of int
    | [<Unique; Value("S", Above = 0.0, Maximum = 3600.0)>] Seconds of float
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Action _ -> "prepare: tokenizing, decoding and resizing, encoding"
            | Text_Tokenizer _ -> "a tokenizer.json"
            | Text _ -> "UTF-8 files to tokenize"
            | Image_Tokenizer _ -> "a VQ-VAE or MoVQ checkpoint; without one pictures are only decoded and resized"
            | Pictures _ -> "pictures, folders of them, or tars"
            | Image_Size _ -> "pictures are cropped and resized to N x N pixels (default: 256)"
            | Threads _ -> "threads of the measurements with several (default: all cores)"
            | Seconds _ -> "how long each measurement goes on (default: 5)"
            | Json -> Words.json

type internal InspectArguments =
    | [<Mandatory; Unique; MainCommand; Value("PATH")>] Path of string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Path _ -> "a model, a run, a shard, a tar, or a configuration"
            | Json -> Words.json

type internal DoctorArguments =
    | [<Unique>] Json

    interface IArgParserTemplate with
        member case.Usage =
            match case with
            | Json -> Words.json
