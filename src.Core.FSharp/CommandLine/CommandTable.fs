/// The commands there are: how each is spelled, and how what was given becomes a plain command. A command that is not in
/// the table does not exist for a user.
module internal Hybrid.CommandTable

open System
open System.Collections.Generic
open System.Globalization
open Argu
open Hybrid.Arguments
open Hybrid.ArgumentValues

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

/// One of the words that a command can begin with.
type Choice = { Word: string; Summary: string; Needs: string list; Takes: string list; Example: string }

/// A command as the table lists it.
type Entry =
    {
        Name: string
        Summary: string
        Example: string
        /// Options of which exactly one is given.
        OneOf: string list
        /// Options of which at least one is given.
        AnyOf: string list
        /// Options that are given all or none.
        Together: string list
        /// Options that mean something only beside another: each with that one.
        Beside: (string * string) list
        /// What the first word decides: options that stand here go only with the words they stand at.
        Choices: Choice list
        /// The keys that --set reaches, where the command has it.
        Keys: Lazy<JsonKey list>
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
        AnyOf = []
        Together = []
        Beside = []
        Choices = []
        Keys = lazy []
        Flags = lazy (flagsOf parser.Value)
        Read = fun words -> command (parser.Value.ParseCommandLine(words, raiseOnUsage = false))
    }

/// The options of a command that go with its first word; all of them where that decides nothing, or is not there.
let optionsWith (word: string) (entry: Entry) : Flag list =
    let all = entry.Flags.Value |> List.filter (fun flag -> not flag.Positional)

    match entry.Choices |> List.tryFind (fun choice -> choice.Word = word) with
    | None -> all
    | Some choice ->
        let own = choice.Needs @ choice.Takes
        let others = entry.Choices |> List.collect (fun other -> other.Needs @ other.Takes)
        all |> List.filter (fun flag -> List.contains flag.Name own || not (List.contains flag.Name others))

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
                Parallel = given.TryGetResult <@ StudyArguments.Parallel @> |> Option.toNullable
                TensorBoard = given.Contains <@ StudyArguments.TensorBoard @>
                Json = given.Contains <@ StudyArguments.Json @>
            })

        { entry<PrepareArguments>
              "prepare"
              "picture-caption pairs to token shards"
              "hybrid prepare --input photos/*.tar --text-tokenizer tokenizer.json \\\n  --image-tokenizer vqvae.pt --image-size 128 --out shards"
              (fun given ->
                  {
                      PrepareCommand.Input = given.GetResults <@ PrepareArguments.Input @> |> readOnly
                      ImageRoot = given.TryGetResult <@ PrepareArguments.Image_Root @> |> Option.toObj
                      TextTokenizer = given.GetResult <@ PrepareArguments.Text_Tokenizer @>
                      ImageTokenizer = given.TryGetResult <@ PrepareArguments.Image_Tokenizer @> |> Option.toObj
                      Ema = given.Contains <@ PrepareArguments.Ema @>
                      HalfPrecision = given.TryGetResult <@ PrepareArguments.Precision @> = Some "bf16"
                      ImageSize = given.TryGetResult <@ PrepareArguments.Image_Size @> |> Option.toNullable
                      ReducingGap = given.TryGetResult <@ PrepareArguments.Reducing_Gap @> |> Option.toNullable
                      AllCaptions = given.TryGetResult <@ PrepareArguments.Captions @> = Some "all"
                      MaxTextTokens = given.TryGetResult <@ PrepareArguments.Max_Text_Tokens @> |> Option.toNullable
                      DropLongText = given.TryGetResult <@ PrepareArguments.Long_Text @> = Some "drop"
                      PairsPerShard = given.GetResult(<@ PrepareArguments.Pairs_Per_Shard @>, defaultValue = 2048)
                      Workers = given.TryGetResult <@ PrepareArguments.Workers @> |> Option.toNullable
                      Strict = given.Contains <@ PrepareArguments.Strict @>
                      Out = given.GetResult <@ PrepareArguments.Out @>
                      Json = given.Contains <@ PrepareArguments.Json @>
                  }) with
            Together = [ "--image-tokenizer"; "--image-size" ]
        }

        { entry<TrainArguments>
              "train"
              "one training run"
              "hybrid train --config run.json --set optimizer.learningRate 1e-3 --out runs/a"
              (fun given ->
                  {
                      TrainCommand.Config = given.GetResult <@ TrainArguments.Config @>
                      Set = given.GetResults <@ TrainArguments.Set @> |> List.map KeyValuePair |> readOnly
                      Out = given.GetResult <@ TrainArguments.Out @>
                      Resume = given.TryGetResult <@ TrainArguments.Resume @> |> Option.toObj
                      TensorBoard = given.Contains <@ TrainArguments.TensorBoard @>
                      Json = given.Contains <@ TrainArguments.Json @>
                  }) with
            Keys = TrainConfig.keys
        }

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
                      Details = given.Contains <@ EvaluateArguments.Details @>
                      Against =
                          match given.TryGetResult <@ EvaluateArguments.Against @> with
                          | Some path ->
                              {
                                  Path = path
                                  Config = given.TryGetResult <@ EvaluateArguments.Against_Config @> |> Option.toObj
                                  TextRows = Nullable()
                                  ImageCodes = Nullable()
                              }
                          | None -> null
                      GridHeight = given.TryGetResult <@ EvaluateArguments.Grid @> |> Option.map fst |> Option.toNullable
                      GridWidth = given.TryGetResult <@ EvaluateArguments.Grid @> |> Option.map snd |> Option.toNullable
                      Sample = given.GetResult(<@ EvaluateArguments.Sequences @>, defaultValue = 32)
                      Json = given.Contains <@ EvaluateArguments.Json @>
                  }) with
            Together = [ "--text-rows"; "--image-codes" ]
            Beside =
                [
                    "--against", "--details"
                    "--against-config", "--against"
                    "--grid", "--details"
                    "--sequences", "--details"
                ]
        }

        { entry<GenerateArguments>
              "generate"
              "pictures from captions"
              "hybrid generate --model runs/a --prompt \"a red circle above a blue square\" \\\n  --count 4 --out pictures"
              PictureTable.generate with
            OneOf = [ "--prompt"; "--prompts-file" ]
        }

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
                      Against = given.GetResults <@ ProbeArguments.Against @> |> readOnly
                      Tasks = given.GetResults <@ ProbeArguments.Tasks @> |> readOnly
                      Texts = given.GetResults <@ ProbeArguments.Text @> |> readOnly
                      Prompts = given.GetResults <@ ProbeArguments.Complete @> |> List.map unprotect |> readOnly
                      MaxTokens = given.GetResult(<@ ProbeArguments.Max_Tokens @>, defaultValue = 40)
                      Shots = given.TryGetResult <@ ProbeArguments.Shots @> |> Option.toNullable
                      Limit = given.TryGetResult <@ ProbeArguments.Limit @> |> Option.toNullable
                      Seed = given.TryGetResult <@ ProbeArguments.Seed @> |> Option.toNullable
                      Json = given.Contains <@ ProbeArguments.Json @>
                  }) with
            AnyOf = [ "--tasks"; "--text"; "--complete" ]
            Together = [ "--text-rows"; "--image-codes" ]
        }

        { entry<AlignArguments>
              "align"
              "image codes against text embeddings, contrastively"
              "hybrid align --model runs/a --tokens shards --control shuffled-captions \\\n  --codes-of-word red --out aligned"
              AlignTable.command with
            OneOf = [ "--model"; "--codes" ]
            Together = [ "--codes"; "--text-ids"; "--text-embedding" ]
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

        { entry<ImageArguments>
              "image"
              "pictures to codes and back, and training image tokenizers"
              "hybrid image reconstruct --tokenizer vqvae.pt --input photo.jpg --out back"
              PictureTable.image with
            Keys = ImageTrainConfig.keys
            Choices =
                [
                    for word, summary, example in
                        [
                            "encode", "pictures to codes", "hybrid image encode --tokenizer vqvae.pt --input photos --out codes"
                            "decode", "codes to pictures", "hybrid image decode --tokenizer vqvae.pt --input codes --out pictures"
                            "reconstruct",
                            "pictures to codes and back, with what was lost",
                            "hybrid image reconstruct --tokenizer vqvae.pt --input photo.jpg --out back"
                        ] do
                        {
                            Word = word
                            Summary = summary
                            Example = example
                            Needs = [ "--tokenizer" ]
                            Takes = [ "--tokenizer-config"; "--ema"; "--precision"; "--batch"; "--memory-budget"; "--strict" ]
                        }
                    {
                        Word = "train"
                        Summary = "an image tokenizer of one's own from pictures"
                        Example = "hybrid image train --input photos --image-size 128 --out runs/tokenizer"
                        Needs = []
                        Takes =
                            [ "--kind"; "--image-size"; "--codes"; "--steps"; "--config"; "--set"; "--resume"; "--tensorboard" ]
                    }
                ]
        }

        entry<FidArguments>
            "fid"
            "FID, KID, precision and recall of pictures or of their features"
            "hybrid fid --real photos --generated pictures \\\n  --extractor inception-2015-12-05.pt --json"
            PictureTable.fid

        { entry<ConvertArguments>
              "convert"
              "a model from one form to another"
              "hybrid convert --from runs/a --to exported --format hf"
              (fun given ->
                  {
                      ConvertCommand.From =
                          {
                              Path = given.GetResult <@ ConvertArguments.From @>
                              Config = given.TryGetResult <@ ConvertArguments.From_Config @> |> Option.toObj
                              TextRows = given.TryGetResult <@ ConvertArguments.Text_Rows @> |> Option.toNullable
                              ImageCodes = given.TryGetResult <@ ConvertArguments.Image_Codes @> |> Option.toNullable
                          }
                      To = given.GetResult <@ ConvertArguments.To @>
                      Format =
                          match given.GetResult <@ ConvertArguments.Format @> with
                          | "hf" -> ModelFormat.HuggingFace
                          | "open_lm" -> ModelFormat.OpenLm
                          | _ -> ModelFormat.Hybrid
                      ElementType = given.GetResult(<@ ConvertArguments.Dtype @>, defaultValue = "keep")
                      ShardSize =
                          given.TryGetResult <@ ConvertArguments.Shard_Size @>
                          |> Option.bind parseBytes
                          |> Option.defaultValue 5_000_000_000L
                      Json = given.Contains <@ ConvertArguments.Json @>
                  }) with
            Together = [ "--text-rows"; "--image-codes" ]
        }

        { entry<BenchArguments>
              "bench"
              "how fast this machine prepares, loads, trains, draws, exchanges"
              "hybrid bench train --size small"
              BenchTable.command with
            Choices =
                [
                    {
                        Word = "prepare"
                        Summary = "how fast texts and pictures become tokens"
                        Example = "hybrid bench prepare --text-tokenizer tokenizer.json --text story.txt \\\n  --pictures photos"
                        Needs = []
                        Takes = [ "--text-tokenizer"; "--text"; "--image-tokenizer"; "--pictures"; "--image-size"; "--seconds" ]
                    }
                    {
                        Word = "train"
                        Summary = "how fast a step of training is"
                        Example = "hybrid bench train --size small"
                        Needs = []
                        Takes =
                            [
                                "--size"
                                "--model"
                                "--model-config"
                                "--batch"
                                "--micro-batch"
                                "--positions"
                                "--precision"
                                "--steps"
                                "--checkpointing"
                                "--profile"
                                "--zero"
                            ]
                    }
                    {
                        Word = "collective"
                        Summary = "how fast the processes of a launcher exchange"
                        Example = "mpirun -n 2 hybrid bench collective --bytes 1MiB 64MiB"
                        Needs = []
                        Takes = [ "--bytes"; "--precision"; "--seconds" ]
                    }
                    {
                        Word = "load"
                        Summary = "how fast batches are made for training"
                        Example = "hybrid bench load --tokens shards"
                        Needs = []
                        Takes = [ "--tokens"; "--positions"; "--batch"; "--seconds" ]
                    }
                    {
                        Word = "generate"
                        Summary = "how fast tokens are drawn"
                        Example = "hybrid bench generate --size small --batch 8"
                        Needs = []
                        Takes =
                            [
                                "--size"
                                "--model"
                                "--model-config"
                                "--batch"
                                "--precision"
                                "--new"
                                "--prompt-length"
                                "--top-k"
                                "--guidance"
                                "--lookahead"
                            ]
                    }
                ]
        }

        entry<PlanArguments>
            "plan"
            "what training over many GPUs would take, and how to go about it"
            "hybrid plan --gpus 64 --gpu-memory 80 --link 100 --node-link 250"
            PlanTable.command

        entry<InspectArguments>
            "inspect"
            "what a model, run, shard, tar or configuration is"
            "hybrid inspect runs/a"
            (fun given ->
                {
                    InspectCommand.Path = given.GetResult <@ InspectArguments.Path @>
                    Json = given.Contains <@ InspectArguments.Json @>
                })

        entry<ReportArguments>
            "report"
            "curves of several runs on one page, also while they go on"
            "hybrid report runs/a runs/b --out report.html"
            (fun given ->
                {
                    ReportCommand.Runs = given.GetResults <@ ReportArguments.Run @> |> readOnly
                    Out = given.GetResult <@ ReportArguments.Out @>
                    Watch = given.Contains <@ ReportArguments.Watch @>
                    Port = given.TryGetResult <@ ReportArguments.Port @> |> Option.toNullable
                    Smoothing = given.GetResult(<@ ReportArguments.Smoothing @>, defaultValue = 0.95)
                    TensorBoard = given.TryGetResult <@ ReportArguments.TensorBoard @> |> Option.toObj
                    Json = given.Contains <@ ReportArguments.Json @>
                })

        { entry<SoakArguments>
              "soak"
              "whether a run that is killed and damaged loses anything"
              "hybrid soak --faults 50 --out soak"
              BenchTable.soak with
            OneOf = [ "--minutes"; "--faults" ]
        }

        entry<DoctorArguments> "doctor" "what this machine offers and what is missing" "hybrid doctor" (fun given ->
            { DoctorCommand.Json = given.Contains <@ DoctorArguments.Json @> })

        entry<CompletionArguments>
            "completion"
            "a script that completes hybrid's command lines in a shell"
            "hybrid completion bash > ~/.local/share/bash-completion/completions/hybrid"
            (fun given ->
                {
                    CompletionCommand.Shell = given.GetResult <@ CompletionArguments.Shell @>
                    Json = given.Contains <@ CompletionArguments.Json @>
                })
    ]
