/// The commands there are: how each is spelled, and how what was given becomes a plain command. A command that is not in
/// the table does not exist for a user.
module internal Hybrid.CommandTable

open System
open System.Collections.Generic
open System.Globalization
open Argu
open Hybrid.Arguments

/// An option as the schema declares it.
type Flag =
    {
        Name: string
        Description: string
        Fields: Type list
        Value: ValueAttribute option
        Mandatory: bool
        Unique: bool
        Positional: bool
    }

/// A command as the table lists it.
type Entry =
    {
        Name: string
        Summary: string
        Example: string
        /// Options of which exactly one is given.
        OneOf: string list
        /// Options that are given all or none.
        Together: string list
        Flags: Lazy<Flag list>
        Read: string[] -> ICommand
    }

let private flagsOf<'T when 'T :> IArgParserTemplate> (parser: ArgumentParser<'T>) =
    [
        for case in parser.GetArgumentCases() do
            let union = case.UnionCaseInfo

            {
                Name = if case.IsMainCommand then case.Name.Value else List.head case.CommandLineNames.Value
                Description = case.Description.Value
                Fields = [ for field in union.GetFields() -> field.PropertyType ]
                Value = union.GetCustomAttributes typeof<ValueAttribute> |> Seq.tryHead |> Option.map unbox<ValueAttribute>
                Mandatory = case.IsMandatory.Value
                Unique = case.IsUnique.Value
                Positional = case.IsMainCommand
            }
    ]

let private entry<'T when 'T :> IArgParserTemplate> name summary example (command: ParseResults<'T> -> ICommand) =
    let parser =
        lazy (ArgumentParser.Create<'T>(programName = "hybrid " + name, errorHandler = ExceptionExiter(), checkStructure = false))

    {
        Name = name
        Summary = summary
        Example = example
        OneOf = []
        Together = []
        Flags = lazy (flagsOf parser.Value)
        Read = fun words -> command (parser.Value.ParseCommandLine(words, raiseOnUsage = false))
    }

/// Argu takes a value that is spelled like an option for one. A text of that kind goes through it behind this character.
let private literal = "\001"

let private spelledLikeOption (text: string) = text.StartsWith '-' || text.StartsWith literal

/// A value of free text as Argu is to see it.
let protect (flag: Flag) (value: string) : string =
    match flag.Value with
    | Some shown when
        (shown.Placeholder = "S" || shown.Placeholder = "TEXT")
        && flag.Fields = [ typeof<string> ]
        && spelledLikeOption value
        ->
        literal + value
    | _ -> value

let private unprotect (text: string) = if text.StartsWith literal then text.Substring 1 else text

let readOnly (values: 'T list) = values :> IReadOnlyList<'T>

let splitIds (text: string) = text.Split([| ' '; ','; '\t'; '\n'; '\r' |], StringSplitOptions.RemoveEmptyEntries)

let private ids (text: string) : IReadOnlyList<int> =
    splitIds text
    |> Array.map (fun id -> Int32.Parse(id, CultureInfo.InvariantCulture))
    |> Array.toList
    |> readOnly

let private idsOrNull (text: string option) : IReadOnlyList<int> | null =
    match text with
    | Some text -> ids text
    | None -> null

/// The commands, in the order the help shows them.
let table: Entry list =
    [
        entry<StudyArguments> "study" "the whole experiment with its report" "hybrid study --preset tiny" (fun given ->
            {
                StudyCommand.Preset = given.GetResult(<@ StudyArguments.Preset @>, defaultValue = "tiny")
                Config = given.TryGetResult <@ StudyArguments.Config @> |> Option.toObj
                Out = given.TryGetResult <@ StudyArguments.Out @> |> Option.toObj
                Resume = given.Contains <@ StudyArguments.Resume @>
                DryRun = given.Contains <@ StudyArguments.Dry_Run @>
                Seed = given.TryGetResult <@ StudyArguments.Seed @> |> Option.toNullable
                Json = given.Contains <@ StudyArguments.Json @>
            })

        entry<PrepareArguments>
            "prepare"
            "picture-caption pairs to token shards"
            "hybrid prepare --input photos/*.tar --text-tokenizer tokenizer.json \\\n  --image-tokenizer vqvae.pt --image-size 128 --out shards"
            (fun given ->
                {
                    PrepareCommand.Input = given.GetResults <@ PrepareArguments.Input @> |> readOnly
                    TextTokenizer = given.GetResult <@ PrepareArguments.Text_Tokenizer @>
                    ImageTokenizer = given.GetResult <@ PrepareArguments.Image_Tokenizer @>
                    ImageSize = given.GetResult <@ PrepareArguments.Image_Size @>
                    Out = given.GetResult <@ PrepareArguments.Out @>
                    Json = given.Contains <@ PrepareArguments.Json @>
                })

        entry<TrainArguments>
            "train"
            "one training run"
            "hybrid train --config run.json --set optimizer.learningRate 1e-3 --out runs/a"
            (fun given ->
                {
                    TrainCommand.Config = given.GetResult <@ TrainArguments.Config @>
                    Set = given.GetResults <@ TrainArguments.Set @> |> List.map KeyValuePair |> readOnly
                    Out = given.GetResult <@ TrainArguments.Out @>
                    Resume = given.TryGetResult <@ TrainArguments.Resume @> |> Option.toObj
                    Json = given.Contains <@ TrainArguments.Json @>
                })

        { entry<EvaluateArguments>
              "evaluate"
              "losses by kind of token, with intervals"
              "hybrid evaluate --model runs/a --tokens shards --json"
              (fun given ->
                  {
                      EvaluateCommand.Model =
                          {
                              Path = given.GetResult <@ EvaluateArguments.Model @>
                              Config = given.TryGetResult <@ EvaluateArguments.Model_Config @> |> Option.toObj
                              TextRows = given.TryGetResult <@ EvaluateArguments.Text_Rows @> |> Option.toNullable
                              ImageCodes = given.TryGetResult <@ EvaluateArguments.Image_Codes @> |> Option.toNullable
                          }
                      Tokens = given.GetResult <@ EvaluateArguments.Tokens @>
                      Json = given.Contains <@ EvaluateArguments.Json @>
                  }) with
            Together = [ "--text-rows"; "--image-codes" ]
        }

        entry<GenerateArguments>
            "generate"
            "pictures from captions"
            "hybrid generate --model runs/a --prompt \"a red circle above a blue square\" \\\n  --count 4 --out pictures"
            (fun given ->
                {
                    GenerateCommand.Model = given.GetResult <@ GenerateArguments.Model @>
                    Prompts = given.GetResults <@ GenerateArguments.Prompt @> |> List.map unprotect |> readOnly
                    Count = given.GetResult(<@ GenerateArguments.Count @>, defaultValue = 1)
                    Temperature = given.GetResult(<@ GenerateArguments.Temperature @>, defaultValue = 1.0)
                    TopK = given.TryGetResult <@ GenerateArguments.Top_K @> |> Option.toNullable
                    TopP = given.TryGetResult <@ GenerateArguments.Top_P @> |> Option.toNullable
                    Guidance = given.GetResult(<@ GenerateArguments.Cfg @>, defaultValue = 1.0)
                    Seed = given.GetResult(<@ GenerateArguments.Seed @>, defaultValue = 0L)
                    Out = given.GetResult <@ GenerateArguments.Out @>
                    Json = given.Contains <@ GenerateArguments.Json @>
                })

        { entry<CompleteArguments>
              "complete"
              "the continuation of a text"
              "hybrid complete --model runs/a --prompt \"Once upon a time\" --greedy"
              (fun given ->
                  {
                      CompleteCommand.Model =
                          {
                              Path = given.GetResult <@ CompleteArguments.Model @>
                              Config = given.TryGetResult <@ CompleteArguments.Model_Config @> |> Option.toObj
                              TextRows = given.TryGetResult <@ CompleteArguments.Text_Rows @> |> Option.toNullable
                              ImageCodes = given.TryGetResult <@ CompleteArguments.Image_Codes @> |> Option.toNullable
                          }
                      Prompt = given.TryGetResult <@ CompleteArguments.Prompt @> |> Option.map unprotect |> Option.toObj
                      PromptIds = given.TryGetResult <@ CompleteArguments.Prompt_Ids @> |> idsOrNull
                      Greedy = given.Contains <@ CompleteArguments.Greedy @>
                      MaxTokens = given.GetResult(<@ CompleteArguments.Max_Tokens @>, defaultValue = 100)
                      Json = given.Contains <@ CompleteArguments.Json @>
                  }) with
            OneOf = [ "--prompt"; "--prompt-ids" ]
            Together = [ "--text-rows"; "--image-codes" ]
        }

        { entry<ProbeArguments>
              "probe"
              "knowledge, few-shot and language-modelling probes"
              "hybrid probe --model runs/a --against pretrained --tasks lambada.jsonl"
              (fun given ->
                  {
                      ProbeCommand.Model =
                          {
                              Path = given.GetResult <@ ProbeArguments.Model @>
                              Config = given.TryGetResult <@ ProbeArguments.Model_Config @> |> Option.toObj
                              TextRows = given.TryGetResult <@ ProbeArguments.Text_Rows @> |> Option.toNullable
                              ImageCodes = given.TryGetResult <@ ProbeArguments.Image_Codes @> |> Option.toNullable
                          }
                      Against = given.TryGetResult <@ ProbeArguments.Against @> |> Option.toObj
                      Tasks = given.GetResults <@ ProbeArguments.Tasks @> |> readOnly
                      Json = given.Contains <@ ProbeArguments.Json @>
                  }) with
            Together = [ "--text-rows"; "--image-codes" ]
        }

        { entry<TokenizeArguments>
              "tokenize"
              "text to ids and back"
              "hybrid tokenize --tokenizer tokenizer.json --text \"Once upon a time\""
              (fun given ->
                  {
                      TokenizeCommand.Tokenizer = given.GetResult <@ TokenizeArguments.Tokenizer @>
                      Text = given.TryGetResult <@ TokenizeArguments.Text @> |> Option.map unprotect |> Option.toObj
                      File = given.TryGetResult <@ TokenizeArguments.File @> |> Option.toObj
                      Decode = given.TryGetResult <@ TokenizeArguments.Decode @> |> idsOrNull
                      Special = given.Contains <@ TokenizeArguments.Special @>
                      Json = given.Contains <@ TokenizeArguments.Json @>
                  }) with
            OneOf = [ "--text"; "--file"; "--decode" ]
        }

        entry<ImageArguments>
            "image"
            "pictures to codes and back"
            "hybrid image reconstruct --tokenizer vqvae.pt --input photo.jpg --out back"
            (fun given ->
                {
                    ImageCommand.Action =
                        match given.GetResult <@ ImageArguments.Action @> with
                        | "encode" -> ImageAction.Encode
                        | "decode" -> ImageAction.Decode
                        | _ -> ImageAction.Reconstruct
                    Tokenizer = given.GetResult <@ ImageArguments.Tokenizer @>
                    TokenizerConfig = given.TryGetResult <@ ImageArguments.Tokenizer_Config @> |> Option.toObj
                    Input = given.GetResults <@ ImageArguments.Input @> |> readOnly
                    Out = given.GetResult <@ ImageArguments.Out @>
                    Json = given.Contains <@ ImageArguments.Json @>
                })

        entry<BenchArguments>
            "bench"
            "how fast this machine prepares data"
            "hybrid bench prepare --text-tokenizer tokenizer.json --text book.txt"
            (fun given ->
                {
                    BenchCommand.Action = BenchAction.Prepare
                    TextTokenizer = given.TryGetResult <@ BenchArguments.Text_Tokenizer @> |> Option.toObj
                    Text = given.GetResults <@ BenchArguments.Text @> |> readOnly
                    ImageTokenizer = given.TryGetResult <@ BenchArguments.Image_Tokenizer @> |> Option.toObj
                    Pictures = given.GetResults <@ BenchArguments.Pictures @> |> readOnly
                    ImageSize = given.TryGetResult <@ BenchArguments.Image_Size @> |> Option.toNullable
                    Threads = given.TryGetResult <@ BenchArguments.Threads @> |> Option.toNullable
                    Seconds = given.GetResult(<@ BenchArguments.Seconds @>, defaultValue = 5.0)
                    Json = given.Contains <@ BenchArguments.Json @>
                })

        entry<InspectArguments>
            "inspect"
            "what a model, run, shard, tar or configuration is"
            "hybrid inspect runs/a"
            (fun given ->
                {
                    InspectCommand.Path = given.GetResult <@ InspectArguments.Path @>
                    Json = given.Contains <@ InspectArguments.Json @>
                })

        entry<DoctorArguments> "doctor" "what this machine offers and what is missing" "hybrid doctor" (fun given ->
            { DoctorCommand.Json = given.Contains <@ DoctorArguments.Json @> })
    ]
