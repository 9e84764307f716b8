/// The command line as a whole: what is wrong, help, the options.
module Hybrid.Tests.CommandLineTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.CommandLineRunning

/// Command lines that are wrong, and what the answer must say.
let private wrong =
    [
        [ "stduy" ], [ "There is no command stduy. Did you mean study?"; "See: hybrid --help" ]
        [ "algin" ], [ "There is no command algin. Did you mean align?" ]
        [ "align"; "--out"; "o" ], [ "hybrid align needs one of --model, --codes." ]
        [ "align"; "--codes"; "c"; "--text-ids"; "t"; "--out"; "o" ],
        [ "--codes and --text-ids are given without --text-embedding: they go together." ]
        [ "align"; "--model"; "m"; "--codes"; "c"; "--out"; "o" ], [ "--model and --codes exclude each other" ]
        [
            yield! [ "align"; "--model"; "m"; "--out"; "o"; "--batch"; "1"; "--betas"; "0.9"; "1"; "--order"; "random" ]
            yield! [ "--control"; "shuffled"; "--nearest-of"; "a" ]
        ],
        [
            "--batch needs a whole number of at least 2, but was given '1'."
            "--betas needs a number from 0 to 0.999999999, but was given '1'."
            "--order needs one of sequential, shuffled"
            "--control needs one of shuffled-captions, random-text"
            "--nearest-of needs token ids"
        ]
        [ "probe"; "--model"; "m" ], [ "hybrid probe needs at least one of --tasks, --text, --complete." ]
        [ "gen" ], [ "There is no command gen. Did you mean generate?" ]
        [ "generate"; "--temp"; "1" ], [ "There is no option --temp. Did you mean --temperature?" ]
        [ "convert"; "--format"; "hff" ], [ "Did you mean hf?" ]
        [ "study"; "--preset"; "tinny" ], [ "Did you mean tiny?" ]
        [ "bench"; "colective" ], [ "Did you mean collective?" ]
        [ "completion"; "bsh" ], [ "Did you mean bash?" ]
        [ "train"; "--learning-rate"; "1e-3" ],
        [
            "There is no option --learning-rate. The configuration has the key optimizer.learningRate: give it as --set optimizer.learningRate VALUE."
        ]
        [ "--vresion" ], [ "There is no option --vresion. Did you mean --version?" ]
        [ "evaluate" ],
        [ "hybrid evaluate needs --model PATH"; "hybrid evaluate needs --tokens PATH"; "See: hybrid evaluate --help" ]
        [ "complete"; "--modle"; "m"; "--prompt"; "a" ], [ "There is no option --modle. Did you mean --model?" ]
        [ "complete"; "--max_tokens=3"; "--model"; "m"; "--prompt"; "a" ],
        [ "There is no option --max_tokens. Did you mean --max-tokens?" ]
        [ "study"; "--preset"; "tny" ], [ "--preset needs one of smoke, tiny, paper, but was given 'tny'. Did you mean tiny?" ]
        [ "study"; "--resume"; "must" ], [ "--resume needs auto, but was given 'must'." ]
        [ "study"; "--seed"; "1.5" ], [ "--seed needs a whole number, but was given '1.5'." ]
        [ "study"; "--seed"; "1"; "--seed"; "2" ], [ "--seed is given more than once." ]
        [ "study"; "--json=true" ], [ "--json takes no value." ]
        [ "study"; "--out"; "" ], [ "--out needs DIR, but was given nothing." ]
        [ "study"; "tiny" ], [ "'tiny' belongs to no option." ]
        [ "study"; "--out" ], [ "--out needs DIR." ]
        [ "study"; "--out"; "--json" ],
        [ "--out needs DIR, but --json follows. A value that begins with - is written --out=VALUE." ]
        [ "train"; "--config"; "c"; "--out"; "o"; "--set"; "a" ], [ "--set needs KEY VALUE." ]
        [ "prepare"; "--input"; "a"; "--text-tokenizer"; "t"; "--image-size"; "8"; "--out"; "o" ],
        [ "--image-size is given without --image-tokenizer: they go together." ]
        [ "prepare"; "--input"; "--out"; "o" ], [ "--input needs PATH..., but --out follows." ]
        [ "fid"; "--real"; "a"; "--resize"; "cubic"; "--measures"; "fid"; "is"; "--limit"; "1" ],
        [
            "hybrid fid needs --generated PATH"
            "--resize needs one of clean, lanczos, bilinear, none"
            "--measures needs one of fid, kid, neighbours, but was given 'is'"
            "--limit needs a whole number of at least 2"
        ]
        [ "generate"; "--model"; "m"; "--out"; "o" ], [ "hybrid generate needs one of --prompt, --prompts-file." ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--prompts-file"; "f"; "--out"; "o" ],
        [ "--prompt and --prompts-file exclude each other" ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--out"; "o"; "--top-p"; "0" ],
        [ "--top-p needs a number above 0 and at most 1, but was given '0'." ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--out"; "o"; "--count"; "0"; "--cfg"; "NaN" ],
        [
            "--count needs a whole number of at least 1, but was given '0'."
            "--cfg needs a number of at least 0, but was given 'NaN'."
        ]
        [ "generate"; "--model"; "m"; "--prompt"; "a"; "--out"; "o"; "--count"; "9999999999" ], [ "--count needs a whole number" ]
        [ "complete"; "--model"; "m" ], [ "hybrid complete needs one of --prompt, --prompt-ids." ]
        [ "complete"; "--model"; "m"; "--prompt"; "a"; "--prompt-ids"; "1" ], [ "--prompt and --prompt-ids exclude each other" ]
        [ "complete"; "--model"; "m"; "--prompt-ids"; "1 -2" ], [ "--prompt-ids needs token ids such as \"1 2 3\"" ]
        [ "complete"; "--model"; "m"; "--prompt-ids"; " " ], [ "--prompt-ids needs token ids" ]
        [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--text-rows"; "3" ],
        [ "--text-rows is given without --image-codes: they go together." ]
        [
            "evaluate"
            "--model"
            "m"
            "--tokens"
            "t"
            "--against-config"
            "f"
            "--grid"
            "2"
            "2"
            "--sequences"
            "1"
        ],
        [
            "--against-config goes only with --against."
            "--grid goes only with --details."
            "--sequences goes only with --details."
        ]
        [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--details"; "--grid"; "2"; "0" ],
        [ "--grid needs a whole number from 1 to 16384, but was given '0'." ]
        [ "evaluate"; "--model"; "m"; "--tokens"; "t"; "--details"; "--grid"; "2" ], [ "--grid needs H W." ]
        [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; "hg"; "--shard-size"; "5 TB" ],
        [
            "--format needs one of hf, open_lm, hybrid, but was given 'hg'. Did you mean hf?"
            "--shard-size needs a size such as 5GB or 500MB, but was given '5 TB'."
        ]
        [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; "hf"; "--shard-size"; "0" ], [ "--shard-size needs a size" ]
        [ "convert"; "--from"; "a"; "--to"; "b"; "--format"; "hf"; "--shard-size"; "99999999999GB" ],
        [ "--shard-size needs a size" ]
        [ "convert" ],
        [
            "hybrid convert needs --from PATH"
            "hybrid convert needs --to DIR"
            "hybrid convert needs --format hf|open_lm|hybrid"
        ]
        [ "image"; "encod"; "--tokenizer"; "v"; "--input"; "a"; "--out"; "o" ],
        [
            "The first word must be one of encode, decode, reconstruct, train, but was given 'encod'. Did you mean encode?"
        ]
        [ "bench"; "load"; "--text"; "a" ], [ "--text belongs to prepare, not to load." ]
        [ "bench"; "load"; "--positions"; "0" ], [ "--positions" ]
        [ "image"; "--tokenizer"; "v"; "--input"; "a"; "--out"; "o" ], [ "hybrid image needs encode|decode|reconstruct|train" ]
        [ "image"; "encode"; "--input"; "a"; "--out"; "o" ], [ "hybrid image encode needs --tokenizer PATH" ]
        [ "image"; "decode"; "--tokenizr"; "v"; "--input"; "a"; "--out"; "o"; "--steps"; "3"; "--resume"; "auto" ],
        [
            "There is no option --tokenizr. Did you mean --tokenizer?"
            "--steps belongs to train, not to decode."
            "--resume belongs to train, not to decode."
        ]
        [ "image"; "train"; "--tokenizer"; "v"; "--out"; "o"; "--kind"; "moqv" ],
        [
            "--tokenizer belongs to encode, decode, reconstruct, not to train."
            "--kind needs one of vqvae, movq, but was given 'moqv'. Did you mean movq?"
            "hybrid image needs --input PATH..."
        ]
        [ "bench"; "generate"; "--pictures"; "p"; "--lookahead"; "0" ],
        [
            "--lookahead needs a whole number from 1 to 1024, but was given '0'."
            "--pictures belongs to prepare, not to generate."
        ]
        [ "report"; "--out"; "o" ], [ "hybrid report needs RUN..." ]
        [ "report"; "a"; "" ], [ "A word must be RUN, but was given nothing."; "hybrid report needs --out F" ]
        [ "report"; "a"; "--out"; "o"; "--port"; "0" ], [ "--port needs a whole number from 1 to 65535, but was given '0'." ]
        [ "report"; "a"; "--out"; "o"; "--smoothing"; "1" ], [ "--smoothing needs a number from 0 to 0.99, but was given '1'." ]
        [ "inspect" ], [ "hybrid inspect needs PATH" ]
        [ "inspect"; "a"; "b" ], [ "'b' belongs to no option." ]
        [ "tokenize"; "--tokenizer=--json"; "--text=a" ], [ "--tokenizer"; "See: hybrid tokenize --help" ]
    ]

let private flagOf (option: string) = (option.Split ' ')[0]

/// Every command, and each with every first word that it can begin with.
let private commandsAndWords: string list list =
    [
        for entry in CommandTable.table do
            [ entry.Name ]

            for choice in entry.Choices do
                [ entry.Name; choice.Word ]
    ]

let tests =
    testList
        "CommandLine"
        [
            testList
                "wrong use"
                [
                    for line, sentences in wrong do
                        testCase ("hybrid " + String.Join(' ', line)) (fun () ->
                            let text = usage line

                            for sentence in sentences do
                                Expect.stringContains text sentence "the answer says it")
                ]

            testCase "one mistake gives one sentence" (fun () ->
                for line in [ [ "complete"; "--modle"; "m"; "--prompt"; "a" ]; [ "study"; "--out" ]; [ "inspect" ] ] do
                    Expect.hasLength ((usage line).Split '\n') 2 $"{line}: a sentence and where to look")

            testCase "the commands and their options are frozen" (fun () ->
                Expect.equal (List.ofSeq CommandLine.commands) (List.map fst CommandOptions.frozen) "commands"

                for command, options in CommandOptions.frozen do
                    Expect.equal (List.ofSeq (CommandLine.options command)) options command)

            testCase "hybrid alone says what to do first and lists every command" (fun () ->
                let text = help []
                Expect.stringContains text "hybrid study" "the main job"

                for command in CommandLine.commands do
                    Expect.stringContains text $"\n  {command} " command

                for line in [ [ "--help" ]; [ "-h" ]; [ "help" ] ] do
                    Expect.equal (help line) text $"{line}")

            testCase "the help of a command names its options and gives an example" (fun () ->
                for command, options in CommandOptions.frozen do
                    let text = help [ command; "--help" ]
                    Expect.equal (help [ "help"; command ]) text "both ways"
                    let example = text.Substring(text.IndexOf "Example:")
                    Expect.stringContains example $"  hybrid {command}" "example"

                    for option in options do
                        Expect.stringContains text $"\n  {option}" command)

            testCase "the examples parse" (fun () ->
                for line in commandsAndWords do
                    let text = help (line @ [ "--help" ])
                    let example = text.Substring(text.IndexOf "Example:" + 8).Replace("\\\n", " ")

                    let words =
                        example.Split '"'
                        |> Array.mapi (fun i part ->
                            if i % 2 = 1 then
                                [| part |]
                            else
                                part.Split([| ' '; '\n' |], StringSplitOptions.RemoveEmptyEntries))
                        |> Array.concat
                        |> List.ofArray

                    // A launcher may stand before, and where the output goes behind.
                    let own = words |> List.skipWhile ((<>) "hybrid") |> List.tail |> List.takeWhile ((<>) ">")
                    run own |> ignore)

            testCase "help fits 80 columns" (fun () ->
                for text in help [] :: [ for line in commandsAndWords -> help (line @ [ "--help" ]) ] do
                    for line in text.Split '\n' do
                        Expect.isLessThanOrEqual line.Length 80 line)

            testCase "a first word has help of its own, with the options that go with it" (fun () ->
                for entry in CommandTable.table do
                    for choice in entry.Choices do
                        let text = help [ entry.Name; choice.Word; "--help" ]
                        Expect.equal (help [ "help"; entry.Name; choice.Word ]) text "both ways"
                        Expect.stringStarts text $"hybrid {entry.Name} {choice.Word}: " "what it does"

                        Expect.stringContains
                            (text.Substring(text.IndexOf "Example:"))
                            $"hybrid {entry.Name} {choice.Word} "
                            "example"

                        for flag in CommandTable.optionsWith "" entry do
                            let goes = List.contains flag (CommandTable.optionsWith choice.Word entry)
                            Expect.equal (text.Contains $"\n  {flag.Name} ") goes $"{choice.Word} and {flag.Name}")

            testCase "an option that is a number or a choice and may be left out says what holds then" (fun () ->
                for entry in CommandTable.table do
                    let needed =
                        entry.OneOf
                        @ entry.AnyOf
                        @ entry.Together
                        @ List.map fst entry.Beside
                        @ List.collect (fun (choice: CommandTable.Choice) -> choice.Needs) entry.Choices

                    for flag in CommandTable.optionsWith "" entry do
                        let closed = flag.Value |> Option.exists (fun value -> value.Closed)
                        let number = flag.Fields |> List.exists (fun field -> field <> typeof<string>)

                        let grid = entry.Name = "evaluate" && flag.Name = "--grid"

                        if (closed || number) && not flag.Mandatory && (grid || not (List.contains flag.Name needed)) then
                            Expect.stringContains flag.Description "default" $"{entry.Name} {flag.Name}")

            testCase "help wins over mistakes" (fun () ->
                Expect.stringContains (help [ "train"; "--nonsense"; "--help" ]) "hybrid train" "help")

            testCase "--version is one line" (fun () ->
                Expect.equal (help [ "--version" ]) $"hybrid {CommandLine.version}" "version"
                Expect.isTrue (Char.IsDigit CommandLine.version[0]) CommandLine.version)

            testCase "every option is spelled in one way only" (fun () ->
                for command, options in CommandOptions.frozen do
                    let flags = options |> List.map flagOf
                    Expect.equal (List.distinct flags) flags command
                    Expect.contains flags "--json" command)

            testProperty "no words make the parser fail" (fun (seed: int) ->
                let vocabulary =
                    [|
                        for command, options in CommandOptions.frozen do
                            command
                            yield! options |> List.map flagOf
                        "--"
                        "-"
                        "="
                        ""
                        "--="
                        "1 2"
                        "-1"
                        "nan"
                        "--out=x"
                        "--set=a"
                        "a=b"
                        "--help="
                        "-h=1"
                        "ü"
                    |]

                let stream = Random.ofSeed (int64 seed)
                let count = Random.below 8 stream 0L

                let words = [ for i in 1..count -> vocabulary[Random.below vocabulary.Length stream (int64 i)] ]

                match parse words with
                | :? UsageOutcome as outcome -> outcome.Text.Contains "See: hybrid"
                | :? HelpOutcome as outcome -> outcome.Text <> ""
                | :? RunOutcome as outcome -> not (isNull (box outcome.Command))
                | _ -> false)
        ]
