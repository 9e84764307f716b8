/// From the words of `hybrid bench` and `hybrid soak` to a measurement.
module internal Hybrid.BenchTable

open System
open Argu
open Hybrid.Arguments
open Hybrid.ArgumentValues

let private benchShape (given: ParseResults<BenchArguments>) : BenchShape =
    {
        Size = given.TryGetResult <@ BenchArguments.Size @> |> Option.toObj
        Model =
            given.TryGetResult <@ BenchArguments.Model @>
            |> Option.map (fun path ->
                {
                    Path = path
                    Config = given.TryGetResult <@ BenchArguments.Model_Config @> |> Option.toObj
                    TextRows = Nullable()
                    ImageCodes = Nullable()
                })
            |> Option.toObj
        Positions = given.TryGetResult <@ BenchArguments.Positions @> |> Option.toNullable
        HalfPrecision = given.GetResult(<@ BenchArguments.Precision @>, defaultValue = "bf16") = "bf16"
    }

let private benchGenerate (given: ParseResults<BenchArguments>) : ICommand =
    {
        BenchGenerateCommand.Shape = benchShape given
        Batch = given.TryGetResult <@ BenchArguments.Batch @> |> Option.toNullable
        New = given.TryGetResult <@ BenchArguments.New @> |> Option.toNullable
        PromptLength = given.GetResult(<@ BenchArguments.Prompt_Length @>, defaultValue = 16)
        TopK = given.GetResult(<@ BenchArguments.Top_K @>, defaultValue = 100)
        Guidance = given.GetResult(<@ BenchArguments.Guidance @>, defaultValue = 1.0)
        Lookahead = given.GetResult(<@ BenchArguments.Lookahead @>, defaultValue = 1)
        Threads = given.TryGetResult <@ BenchArguments.Threads @> |> Option.toNullable
        Json = given.Contains <@ BenchArguments.Json @>
    }

/// The measurement that the first word names.
let command (given: ParseResults<BenchArguments>) : ICommand =
    let json = given.Contains <@ BenchArguments.Json @>
    let threads = given.TryGetResult <@ BenchArguments.Threads @> |> Option.toNullable

    let seconds = given.GetResult(<@ BenchArguments.Seconds @>, defaultValue = 5.0)

    match given.GetResult <@ BenchArguments.Action @> with
    | "prepare" ->
        {
            BenchPrepareCommand.TextTokenizer = given.TryGetResult <@ BenchArguments.Text_Tokenizer @> |> Option.toObj
            Text = given.GetResults <@ BenchArguments.Text @> |> readOnly
            ImageTokenizer = given.TryGetResult <@ BenchArguments.Image_Tokenizer @> |> Option.toObj
            Pictures = given.GetResults <@ BenchArguments.Pictures @> |> readOnly
            ImageSize = given.TryGetResult <@ BenchArguments.Image_Size @> |> Option.toNullable
            Threads = threads
            Seconds = seconds
            Json = json
        }
    | "generate" -> benchGenerate given
    | "collective" ->
        {
            BenchCollectiveCommand.Bytes =
                (match given.GetResults <@ BenchArguments.Bytes @> |> List.choose parseBytes with
                 | [] -> [ 1L <<< 12; 1L <<< 16; 1L <<< 20; 1L <<< 24; 1L <<< 26 ]
                 | sizes -> sizes)
                |> readOnly
            HalfPrecision = given.GetResult(<@ BenchArguments.Precision @>, defaultValue = "bf16") = "bf16"
            Seconds = given.GetResult(<@ BenchArguments.Seconds @>, defaultValue = 1.0)
            Json = json
        }
    | "load" ->
        {
            BenchLoadCommand.Tokens = given.TryGetResult <@ BenchArguments.Tokens @> |> Option.toObj
            Length = given.GetResult(<@ BenchArguments.Positions @>, defaultValue = 1152)
            Batch = given.GetResult(<@ BenchArguments.Batch @>, defaultValue = 8)
            Threads = threads
            Seconds = seconds
            Json = json
        }
    | _ ->
        {
            BenchTrainCommand.Shape = benchShape given
            Batch = given.TryGetResult <@ BenchArguments.Batch @> |> Option.toNullable
            MicroBatch = given.TryGetResult <@ BenchArguments.Micro_Batch @> |> Option.toNullable
            Checkpointing = given.GetResult(<@ BenchArguments.Checkpointing @>, defaultValue = "none")
            Steps = given.GetResult(<@ BenchArguments.Steps @>, defaultValue = 8)
            Threads = threads
            Profile = given.Contains <@ BenchArguments.Profile @>
            Zero = given.GetResult(<@ BenchArguments.Zero @>, defaultValue = "0") |> int
            Json = json
        }

/// The soak that is asked for.
let soak (given: ParseResults<SoakArguments>) : ICommand =
    {
        SoakCommand.Out = given.GetResult <@ SoakArguments.Out @>
        Minutes = given.TryGetResult <@ SoakArguments.Minutes @> |> Option.toNullable
        FaultCount = given.TryGetResult <@ SoakArguments.Faults @> |> Option.toNullable
        Ranks = given.GetResult(<@ SoakArguments.Ranks @>, defaultValue = 1)
        Seed = given.GetResult(<@ SoakArguments.Seed @>, defaultValue = 0L)
        Config = given.TryGetResult <@ SoakArguments.Config @> |> Option.toObj
        Keep = given.Contains <@ SoakArguments.Keep @>
        Json = given.Contains <@ SoakArguments.Json @>
    }
