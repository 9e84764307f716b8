/// How the commands about pictures are spelled becomes plain commands: generate, image, fid.
module internal Hybrid.PictureTable

open System.Collections.Generic
open Argu
open Hybrid.Arguments
open Hybrid.ArgumentValues

/// What `generate` is asked for.
let generate (given: ParseResults<GenerateArguments>) : ICommand =
    {
        GenerateCommand.Model = given.GetResult <@ GenerateArguments.Model @>
        Prompts = given.GetResults <@ GenerateArguments.Prompt @> |> List.map unprotect |> readOnly
        PromptsFile = given.TryGetResult <@ GenerateArguments.Prompts_File @> |> Option.toObj
        Count = given.GetResult(<@ GenerateArguments.Count @>, defaultValue = 1)
        Temperature = given.GetResult(<@ GenerateArguments.Temperature @>, defaultValue = 1.0)
        TopK = given.TryGetResult <@ GenerateArguments.Top_K @> |> Option.toNullable
        TopP = given.TryGetResult <@ GenerateArguments.Top_P @> |> Option.toNullable
        Guidance =
            match given.GetResults <@ GenerateArguments.Cfg @> with
            | [] -> readOnly [ 1.0 ]
            | some -> some |> List.distinct |> readOnly
        Seed = given.GetResult(<@ GenerateArguments.Seed @>, defaultValue = 0L)
        Lookahead = given.GetResult(<@ GenerateArguments.Lookahead @>, defaultValue = 1)
        HalfPrecision = given.TryGetResult <@ GenerateArguments.Precision @> = Some "bf16"
        MemoryBudget = given.TryGetResult <@ GenerateArguments.Memory_Budget @> |> Option.toNullable
        Out = given.GetResult <@ GenerateArguments.Out @>
        Json = given.Contains <@ GenerateArguments.Json @>
    }

/// What `image` is asked for.
let image (given: ParseResults<ImageArguments>) : ICommand =
    let input = given.GetResults <@ ImageArguments.Input @> |> readOnly
    let out = given.GetResult <@ ImageArguments.Out @>
    let json = given.Contains <@ ImageArguments.Json @>

    let other action : ICommand =
        {
            ImageCommand.Action = action
            Tokenizer = given.GetResult <@ ImageArguments.Tokenizer @>
            TokenizerConfig = given.TryGetResult <@ ImageArguments.Tokenizer_Config @> |> Option.toObj
            Ema = given.Contains <@ ImageArguments.Ema @>
            HalfPrecision = given.GetResult(<@ ImageArguments.Precision @>, defaultValue = "fp32") = "bf16"
            Batch = given.GetResult(<@ ImageArguments.Batch @>, defaultValue = 16)
            MemoryBudget = given.TryGetResult <@ ImageArguments.Memory_Budget @> |> Option.toNullable
            Strict = given.Contains <@ ImageArguments.Strict @>
            Input = input
            Out = out
            Json = json
        }

    match given.GetResult <@ ImageArguments.Action @> with
    | "encode" -> other ImageAction.Encode
    | "decode" -> other ImageAction.Decode
    | "reconstruct" -> other ImageAction.Reconstruct
    | _ ->
        let key name value = value |> Option.map (fun value -> name, string value) |> Option.toList

        {
            ImageTrainCommand.Input = input
            Config = given.TryGetResult <@ ImageArguments.Config @> |> Option.toObj
            Set =
                [
                    yield! key "kind" (given.TryGetResult <@ ImageArguments.Kind @>)
                    yield! key "imageSize" (given.TryGetResult <@ ImageArguments.Image_Size @>)
                    yield! key "model.codes" (given.TryGetResult <@ ImageArguments.Codes @>)
                    yield! key "schedule.steps" (given.TryGetResult <@ ImageArguments.Steps @>)
                    yield! given.GetResults <@ ImageArguments.Set @>
                ]
                |> List.map KeyValuePair
                |> readOnly
            Out = out
            Resume = given.Contains <@ ImageArguments.Resume @>
            TensorBoard = given.Contains <@ ImageArguments.TensorBoard @>
            Json = json
        }

/// What `fid` is asked for.
let fid (given: ParseResults<FidArguments>) : ICommand =
    {
        FidCommand.Real = given.GetResult <@ FidArguments.Real @>
        Generated = given.GetResult <@ FidArguments.Generated @>
        Extractor = given.TryGetResult <@ FidArguments.Extractor @> |> Option.toObj
        CenterCrop = given.TryGetResult <@ FidArguments.Crop @> = Some "center"
        PreSize = given.TryGetResult <@ FidArguments.Pre_Size @> |> Option.toNullable
        PreFilter = given.GetResult(<@ FidArguments.Pre_Filter @>, defaultValue = "lanczos")
        Resize = given.GetResult(<@ FidArguments.Resize @>, defaultValue = "clean")
        InputSize = given.GetResult(<@ FidArguments.Input_Size @>, defaultValue = 299)
        Scale = given.GetResult(<@ FidArguments.Scale @>, defaultValue = "inception")
        Entry = given.GetResult(<@ FidArguments.Entry @>, defaultValue = "auto")
        Measures =
            match given.GetResults <@ FidArguments.Measures @> with
            | [] -> readOnly [ "fid"; "kid"; "neighbours" ]
            | some -> some |> List.distinct |> readOnly
        Subsets = given.GetResult(<@ FidArguments.Subsets @>, defaultValue = 100)
        SubsetSize = given.GetResult(<@ FidArguments.Subset_Size @>, defaultValue = 1000)
        Neighbours = given.GetResult(<@ FidArguments.Neighbours @>, defaultValue = 3)
        Extrapolate = given.Contains <@ FidArguments.Extrapolate @>
        Seed = given.GetResult(<@ FidArguments.Seed @>, defaultValue = 0L)
        Limit = given.TryGetResult <@ FidArguments.Limit @> |> Option.toNullable
        Batch = given.GetResult(<@ FidArguments.Batch @>, defaultValue = 32)
        Workers = given.TryGetResult <@ FidArguments.Workers @> |> Option.toNullable
        SaveFeatures = given.TryGetResult <@ FidArguments.Save_Features @> |> Option.toObj
        Strict = given.Contains <@ FidArguments.Strict @>
        Json = given.Contains <@ FidArguments.Json @>
    }
